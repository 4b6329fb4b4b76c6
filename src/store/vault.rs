//! Images in an encrypted file system: a file that dm-crypt makes a disk of, mounted where images go.
//!
//! CRIU writes most of an image itself, so that encrypting has to happen below files. Plain dm-crypt needs no header: the
//! key, used once and random, is all there is.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags};

use crate::command::feed;
use crate::paths::Paths;
use crate::update::{UpdateId, undo};

/// Bytes of a key: two AES-256 keys, as XTS takes them.
pub const KEY: usize = 64;

/// The encrypted file system of one update.
#[derive(Debug)]
pub struct Vault<'a> {
    paths: &'a Paths,
    id: &'a UpdateId,
}

impl<'a> Vault<'a> {
    /// That of update `id`.
    pub fn new(paths: &'a Paths, id: &'a UpdateId) -> Self {
        Self { paths, id }
    }

    /// Makes an empty one for up to `size` bytes and mounts it. It takes no more of the disk than is written to it.
    ///
    /// # Errors
    /// What could not be done; [`Vault::remove`] undoes the rest.
    pub fn create(&self, key: &[u8; KEY], size: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.file());
        let file = file.with_context(|| format!("cannot make {}", self.file().display()))?;
        file.set_len(size.next_multiple_of(4096))?;
        self.unlock(key)?;
        let mut mkfs = Command::new("mkfs.ext4");
        // A few large files: an inode for each MiB is plenty.
        mkfs.args(["-q", "-m", "0", "-i", "1048576", "-E", "nodiscard"]);
        feed(mkfs.arg(self.device()), &[])?;
        self.mount()
    }

    /// Mounts one that an earlier boot has filled.
    ///
    /// # Errors
    /// When it is not there, or the key does not fit.
    pub fn open(&self, key: &[u8; KEY]) -> Result<()> {
        // Whoever began with it was killed before it was mounted.
        if self.device().exists() {
            self.close(&[])?;
        }
        self.unlock(key)?;
        self.mount()
    }

    /// Has it been mounted in this boot?
    pub fn is_open(&self) -> bool {
        let device = |dir: PathBuf| fs::metadata(dir).ok().map(|meta| meta.dev());
        self.device().exists() && device(self.paths.images_root()) != device(self.paths.state_dir())
    }

    /// Removes it, whatever there is of it. What restored processes still use of it stays, out of sight, until they end.
    ///
    /// # Errors
    /// When something stays that need not.
    pub fn remove(&self) -> Result<()> {
        let images = self.paths.images_root();
        if self.device().exists() {
            if nix::mount::umount2(&images, MntFlags::empty()) == Err(nix::errno::Errno::EBUSY) {
                // The space goes back at once, what is in use excepted.
                undo::empty(&images)?;
                let _ = feed(Command::new("fstrim").arg(&images), &[]);
                nix::mount::umount2(&images, MntFlags::MNT_DETACH)?;
            }
            self.close(&["--deferred"])?;
        }
        match fs::remove_file(self.file()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("cannot remove the encrypted images"),
            _ => Ok(()),
        }
    }

    fn unlock(&self, key: &[u8; KEY]) -> Result<()> {
        let mut command = Command::new("cryptsetup");
        command.args(["open", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512"]);
        // Larger sectors are faster; discards tell only how much of the file is in use.
        command.args(["--sector-size", "4096", "--allow-discards", "--key-file", "-"]);
        feed(command.arg(self.file()).arg(self.name()), key).map(drop)
    }

    fn close(&self, how: &[&str]) -> Result<()> {
        feed(Command::new("cryptsetup").arg("close").args(how).arg(self.name()), &[]).map(drop)
    }

    fn mount(&self) -> Result<()> {
        let images = self.paths.images_root();
        fs::create_dir_all(&images)?;
        // Not noexec: copies of replaced libraries are mapped from there.
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some(&self.device()), &images, Some("ext4"), flags, None::<&str>)
            .context("cannot mount the encrypted images (does the key fit?)")
    }

    fn name(&self) -> String {
        format!("kup-{}", self.id)
    }

    fn device(&self) -> PathBuf {
        PathBuf::from("/dev/mapper").join(self.name())
    }

    fn file(&self) -> PathBuf {
        self.paths.state_dir().join(format!("images-{}.crypt", self.id))
    }
}
