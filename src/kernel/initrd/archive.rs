//! The archive that an initrd is: cpio's "newc" (buffer-format.rst in the kernel's documentation), not compressed, as its few
//! files are read once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use cpio::newc::{self, Builder, ModeFileType};

/// An archive that is being written.
pub struct Archive {
    out: BufWriter<File>,
    number: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Begins one at `path`.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(File::create(path)?), number: 0, directories: BTreeSet::new() })
    }

    /// Adds a directory, and those above it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        self.directory(path.rsplit_once('/').map_or("", |(above, _)| above))?;
        self.directories.insert(path.to_owned());
        self.add(Builder::new(path).mode(0o755).set_mode_file_type(ModeFileType::Directory), &[])
    }

    /// Adds a file that may be executed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let path = self.in_its_directory(path)?;
        self.add(Builder::new(path).mode(0o755).set_mode_file_type(ModeFileType::Regular), content)
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let path = self.in_its_directory(path)?;
        let device = Builder::new(path).mode(0o600).set_mode_file_type(ModeFileType::Char);
        self.add(device.rdev_major(major).rdev_minor(minor), &[])
    }

    /// What is at the top of it.
    pub fn top(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn finish(self) -> io::Result<()> {
        newc::trailer(self.out)?.flush()
    }

    fn in_its_directory<'a>(&mut self, path: &'a str) -> io::Result<&'a str> {
        let path = path.trim_start_matches('/');
        self.directory(path.rsplit_once('/').map_or("", |(above, _)| above))?;
        Ok(path)
    }

    fn add(&mut self, builder: Builder, content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut entry = builder.ino(self.number).nlink(1).write(&mut self.out, size);
        entry.write_all(content)?;
        entry.finish().map(drop)
    }
}
