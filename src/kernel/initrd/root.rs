//! The root file system: on what it is, and how its device is found again.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::inspect::host;
use crate::paths::Paths;

/// File systems that lie on one device: name, place of the magic number, the number, place of the UUID (ext4's super.rst in
/// the kernel's documentation, fs/xfs/libxfs/xfs_format.h).
const KNOWN: [(&str, u64, &[u8], u64); 2] = [("ext4", 0x438, &[0x53, 0xef], 0x468), ("xfs", 0, b"XFSB", 32)];

/// ext4's s_state without an error.
const CLEAN: u16 = 1;
/// ext4's s_feature_incompat where there is a journal to be replayed.
const RECOVER: u32 = 4;

/// How it is found, and mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// As mount(2) takes it.
    pub kind: String,
    /// Bytes of its device, and where they are: no other device has all of them.
    pub signature: Vec<(u64, Vec<u8>)>,
}

impl Root {
    /// This machine's, and the directory of its device in /sys.
    ///
    /// # Errors
    /// Why it is none that is found by that alone.
    pub fn of_this_machine(paths: &Paths) -> Result<(Self, PathBuf)> {
        let mounts = host::mounts(paths)?;
        let root = mounts.of_path(Path::new("/")).context("nothing is mounted on /")?;
        ensure!(mounts.0.values().all(|mount| mount.point != Path::new("/usr")), "/usr is a file system of its own");
        ensure!(root.root == Path::new("/"), "/ is a part of a file system");
        let Some(&(kind, magic_at, magic, uuid_at)) = KNOWN.iter().find(|(kind, ..)| *kind == root.fs_type) else {
            bail!("the root file system is {}", root.fs_type);
        };
        let sysfs = fs::canonicalize(paths.at("/sys/dev/block").join(&root.device))
            .with_context(|| format!("/ is on no device: {}", root.device))?;
        ensure!(
            !sysfs.starts_with(paths.at("/sys/devices/virtual")),
            "the root file system's device is made of others"
        );
        let name = sysfs.file_name().and_then(|name| name.to_str()).context("its device has no name")?;
        let mut uuid = vec![0; 16];
        File::open(paths.at(node(name)))
            .and_then(|device| device.read_exact_at(&mut uuid, uuid_at))
            .context("the root file system's device cannot be read")?;
        let root = Self { kind: kind.into(), signature: vec![(magic_at, magic.to_vec()), (uuid_at, uuid)] };
        let found = root.find(paths)?;
        ensure!(found == [name], "the root file system may be on any of these: {}", found.join(", "));
        Ok((root, sysfs))
    }

    /// Names of all devices that have its signature.
    ///
    /// # Errors
    /// When the kernel does not tell which there are.
    pub fn find(&self, paths: &Paths) -> io::Result<Vec<String>> {
        let class = paths.at("/sys/class/block");
        let mut found = Vec::new();
        for entry in fs::read_dir(&class)?.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Drives without a medium.
            let size = fs::read_to_string(class.join(&name).join("size")).unwrap_or_default();
            if size.trim() != "0" && self.is_on(&paths.at(node(&name))).unwrap_or(false) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// Does fsck(8) find nothing to do on `device`, where it lies? fsck.xfs(8) never does; e2fsck(8) looks at what is written
    /// here, where nobody asks for more.
    pub fn is_clean(&self, device: &Path) -> bool {
        self.kind != "ext4" || is_clean_ext4(device).unwrap_or(false)
    }

    fn is_on(&self, device: &Path) -> io::Result<bool> {
        let device = File::open(device)?;
        for (at, bytes) in &self.signature {
            let mut there = vec![0; bytes.len()];
            device.read_exact_at(&mut there, *at)?;
            if there != *bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Unmounted in order, without errors and a journal to be replayed, and not checked too long ago (super.rst in the kernel's
/// documentation of ext4).
fn is_clean_ext4(device: &Path) -> io::Result<bool> {
    let mut block = [0; 0x68];
    File::open(device)?.read_exact_at(&mut block, 1024)?;
    let short = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let long = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let (mounts, most, state) = (short(0x34), short(0x36) as i16, short(0x3a));
    let (checked, interval, incompatible) = (long(0x40), long(0x44), long(0x60));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let often = most > 0 && i32::from(mounts) >= i32::from(most);
    let long_ago = interval > 0 && now >= u64::from(checked) + u64::from(interval);
    Ok(state == CLEAN && incompatible & RECOVER == 0 && !often && !long_ago)
}

/// What devtmpfs calls the device that sysfs calls `name`.
pub fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name.replace('!', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with the root file system on vda1 beside other devices.
    fn machine(root: &str, devices: &[(&str, u8)]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let put = |path: &str, bytes: &[u8]| {
            let path = paths.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("/proc/1/mountinfo", format!("24 1 254:1 / / rw - {root} /dev/vda1 rw\n").as_bytes());
        for (name, uuid) in devices {
            let mut content = vec![0; 4096];
            content[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
            content[0x468..0x478].fill(*uuid);
            put(&format!("/dev/{name}"), &content);
            put(&format!("/sys/class/block/{name}/size"), b"8\n");
        }
        put("/sys/class/block/sr0/size", b"0\n");
        fs::create_dir_all(paths.at("/sys/devices/pci0/virtio0/block/vda/vda1")).unwrap();
        fs::create_dir_all(paths.at("/sys/dev/block")).unwrap();
        std::os::unix::fs::symlink("../../devices/pci0/virtio0/block/vda/vda1", paths.at("/sys/dev/block/254:1"))
            .unwrap();
        (dir, paths)
    }

    #[test]
    fn found_by_what_is_on_it() {
        let (_dir, paths) = machine("ext4", &[("vda1", 1), ("vdb1", 2)]);
        let (root, sysfs) = Root::of_this_machine(&paths).unwrap();
        assert!(sysfs.ends_with("vda/vda1"));
        assert_eq!(root.kind, "ext4");
        let read: Root = serde_json::from_slice(&serde_json::to_vec(&root).unwrap()).unwrap();
        assert_eq!(read.find(&paths).unwrap(), ["vda1"]);
        // Devices may have other names there.
        fs::rename(paths.at("/dev/vda1"), paths.at("/dev/sda1")).unwrap();
        fs::rename(paths.at("/sys/class/block/vda1"), paths.at("/sys/class/block/sda1")).unwrap();
        assert_eq!(read.find(&paths).unwrap(), ["sda1"]);
    }

    #[test]
    fn refused_where_more_is_needed() {
        let why = |root: &str, devices: &[(&str, u8)]| {
            let (_dir, paths) = machine(root, devices);
            format!("{:#}", Root::of_this_machine(&paths).unwrap_err())
        };
        assert!(why("btrfs", &[]).contains("btrfs"));
        assert!(why("ext4", &[("vda1", 1), ("vdb1", 1)]).contains("vd"), "a copy of it is there as well");
        let (_dir, paths) = machine("ext4", &[("vda1", 1)]);
        let mounts = "24 1 254:1 / / rw - ext4 /dev/vda1 rw\n25 24 254:2 / /usr rw - ext4 /dev/vda2 rw\n";
        fs::write(paths.at("/proc/1/mountinfo"), mounts).unwrap();
        assert!(Root::of_this_machine(&paths).unwrap_err().to_string().contains("/usr"));
    }

    #[test]
    fn what_fsck_has_nothing_to_do_with() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("vda1");
        let root = |kind: &str| Root { kind: kind.into(), signature: Vec::new() };
        let clean = |changes: &[(usize, &[u8])]| {
            let mut content = vec![0; 4096];
            content[0x43a] = 1;
            content[0x436..0x438].copy_from_slice(&(-1_i16).to_le_bytes());
            for (at, bytes) in changes {
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            fs::write(&device, content).unwrap();
            root("ext4").is_clean(&device)
        };
        assert!(clean(&[]) && clean(&[(0x436, &[30, 0]), (0x434, &[29, 0])]));
        assert!(!clean(&[(0x43a, &[0])]), "not unmounted");
        assert!(!clean(&[(0x43a, &[3])]), "errors");
        assert!(!clean(&[(0x460, &[4])]), "a journal");
        assert!(!clean(&[(0x436, &[30, 0]), (0x434, &[30, 0])]), "mounted often");
        assert!(!clean(&[(0x444, &[0, 1, 0, 0])]), "checked long ago");
        assert!(root("xfs").is_clean(&device) && !root("ext4").is_clean(&dir.path().join("none")));
    }

    #[test]
    fn names_with_slashes() {
        assert_eq!(node("cciss!c0d0p1"), Path::new("/dev/cciss/c0d0p1"));
    }
}
