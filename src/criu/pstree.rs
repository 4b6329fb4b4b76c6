//! CRIU's image of the tree of processes, `pstree.img` (images/pstree.proto).

use std::io::Read;
use std::path::Path;

use prost::Message;

use super::image::{self, ImageError};

/// Name of the image.
pub const NAME: &str = "pstree.img";
/// criu/include/magic.h.
pub(crate) const MAGIC: u32 = 0x5027_3030;

#[derive(Clone, Copy, PartialEq, Message)]
struct Entry {
    #[prost(uint32, required, tag = "1")]
    pid: u32,
}

/// PIDs of the processes in `images`, zombies included, in the order in which they were dumped: the root comes first.
///
/// # Errors
/// [`ImageError`].
pub fn pids(images: &Path) -> Result<Vec<u32>, ImageError> {
    let path = images.join(NAME);
    pids_in(&path, image::open(&path)?)
}

/// As [`pids`], of the image at `path`, of which so many bytes are in `input`.
///
/// # Errors
/// [`ImageError`].
pub fn pids_in(path: &Path, input: (impl Read, u64)) -> Result<Vec<u32>, ImageError> {
    let entries: Vec<Entry> = image::messages(path, input, MAGIC, usize::MAX)?;
    Ok(entries.into_iter().map(|entry| entry.pid).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes an image of processes with these PIDs.
    pub(crate) fn write(images: &Path, pids: &[u32]) {
        let mut bytes = Vec::new();
        image::head(&mut bytes, MAGIC).unwrap();
        pids.iter().for_each(|pid| image::message(&mut bytes, &Entry { pid: *pid }).unwrap());
        std::fs::write(images.join(NAME), bytes).unwrap();
    }

    #[test]
    fn the_root_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(pids(dir.path()), Err(ImageError::Io { .. })));
        write(dir.path(), &[40712, 40713, 40700]);
        assert_eq!(pids(dir.path()).unwrap(), [40712, 40713, 40700]);
        std::fs::write(dir.path().join(NAME), "something else").unwrap();
        assert!(matches!(pids(dir.path()), Err(ImageError::Damaged { .. })));
    }
}
