//! A medium that is one file of a file system. It is sparse: what was never written takes no room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::Medium;

/// Slots in a file.
#[derive(Debug)]
pub struct Disk(File);

impl Disk {
    /// Makes the file `path`, for root alone.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    /// Opens `path` for a restore: it cannot be written.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(path)?))
    }
}

impl Medium for Disk {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    /// Of what was never written zeros are read where something lies behind it: only a checksum tells them from data.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        let disk = Disk::create(&path).unwrap();
        disk.write(5 << 20, b"memory").unwrap();
        disk.sync().unwrap();
        let mut data = [0; 6];
        let again = Disk::open(&path).unwrap();
        again.read(5 << 20, &mut data).unwrap();
        assert_eq!(&data, b"memory");
        assert!(again.write(0, b"x").is_err(), "read-only");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn beyond_the_end_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::create(&dir.path().join("pages")).unwrap();
        disk.write(0, b"abc").unwrap();
        let kind = disk.read(1, &mut [0; 3]).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        assert!(Disk::create(&dir.path().join("pages")).is_err(), "it is somebody's");
    }
}
