//! Room for the record on a disk that fills up: an update under way has to be able to write down how it ends.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

/// Several records of a machine with many units, in bytes.
const SIZE: i64 = 1 << 20;

/// Takes the room beside `record`.
///
/// # Errors
/// When there is none.
pub fn take(record: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(place(record))?;
    match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
        // Not every file system can; one that grows at every write has nothing to keep either.
        Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
        Err(e) => {
            let _ = throw(record);
            Err(e.into())
        }
    }
}

/// Gives it back.
///
/// # Errors
/// When it stays; also `NotFound`.
pub fn throw(record: &Path) -> io::Result<()> {
    fs::remove_file(place(record))
}

/// Does `write`, and once more in the room that was kept where there is no other.
///
/// # Errors
/// Those of `write`.
pub fn with(record: &Path, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match write() {
        Err(e) if matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) && throw(record).is_ok() => {
            tracing::warn!("no space for the record but what was kept for it: {e}");
            write()
        }
        result => result,
    }
}

fn place(record: &Path) -> PathBuf {
    record.with_extension("ballast")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_is_thrown_once() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("record.json");
        take(&record).unwrap();
        assert!(fs::metadata(place(&record)).unwrap().len() == SIZE as u64);
        let full = |times: i32| {
            let left = Cell::new(times);
            with(&record, || {
                left.set(left.get() - 1);
                if left.get() < 0 { Ok(()) } else { Err(io::Error::from(ErrorKind::StorageFull)) }
            })
        };
        full(1).unwrap();
        assert!(!place(&record).exists());
        assert!(full(1).is_err(), "nothing is left to throw");
        take(&record).unwrap();
        assert!(with(&record, || Err(io::Error::from(ErrorKind::PermissionDenied))).is_err());
        assert!(place(&record).exists(), "another error does not cost it");
        throw(&record).unwrap();
    }
}
