//! Between CRIU's own images and those whose memory is in FOAM.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::ImageError;
use super::mm;
use super::pagemap::{self, ImportError};
use crate::store::arena::Frames;
use crate::store::ram::{Ram, Table};
use crate::store::{Disk, Foam, IndexError, Sealed};

/// Name of the index in an images directory.
pub const INDEX: &str = "foam.index";
/// Name of the slots in an images directory, where they are on a disk.
pub const SLOTS: &str = "foam.slots";
/// Name of what says which memory is in RAM, where some is.
pub const RAM: &str = "foam.ram";
/// CRIU's link to the images of the round before.
const PARENT: &str = "parent";

/// Why memory and images do not come together.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// A file could not be read, written or copied.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index says nothing of use.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// CRIU's images are not what they have to be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// They cannot be brought into FOAM.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Memory cannot be read, or not be written as images.
    #[error(transparent)]
    Memory(io::Error),
}

/// Makes the rest of CRIU's `images` and the last round of `foam` a whole: adds what CRIU has to read itself, and the
/// index. The memory is on its medium when this returns, the files are not synced.
///
/// # Errors
/// [`PlainError`].
pub fn finish(mut foam: Foam, images: &Path) -> Result<Sealed, PlainError> {
    for pid in foam.processes() {
        foam.restrict_lazy(pid, &mm::lazy(images, pid)?);
    }
    let sealed = foam.seal();
    let index = images.join(INDEX);
    fs::write(&index, sealed.index()).map_err(at(&index))?;
    pagemap::write(&sealed, images, true).map_err(PlainError::Memory)?;
    // A restore would look there for what is in FOAM, and cannot do without it once it is named.
    let parent = images.join(PARENT);
    match fs::remove_file(&parent) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&parent)(e)),
        _ => {}
    }
    sealed.sync().map_err(PlainError::Memory)?;
    Ok(sealed)
}

/// Opens the memory of `images` that [`finish`] has completed, with its slots in them, or in `frames` where they came over
/// the switch.
///
/// # Errors
/// [`PlainError`].
pub fn open(images: &Path, frames: Option<Arc<dyn Frames>>) -> Result<Sealed, PlainError> {
    let (index, slots, ram) = (images.join(INDEX), images.join(SLOTS), images.join(RAM));
    let bytes = fs::read(&index).map_err(at(&index))?;
    let disk = Disk::open(&slots).map_err(at(&slots))?;
    let Some(frames) = frames.filter(|_| ram.exists()) else { return Ok(Sealed::open(&bytes, Arc::new(disk))?) };
    let table = fs::read(&ram).and_then(|bytes| Table::decode(&bytes)).map_err(at(&ram))?;
    Ok(Sealed::open(&bytes, Arc::new(Ram::open(frames, disk, table)))?)
}

/// Copies `images`, whose memory is `memory`, into the directory `to` as images of which any CRIU makes a process without
/// kup.
///
/// # Errors
/// [`PlainError`]; also when a page is not as it was stored.
pub fn export(memory: &Sealed, images: &Path, to: &Path) -> Result<(), PlainError> {
    let ours: HashSet<String> =
        pagemap::names(memory).into_iter().chain([INDEX.into(), SLOTS.into(), RAM.into()]).collect();
    copy(images, to, &|name| !ours.contains(name))?;
    pagemap::write(memory, to, false).map_err(PlainError::Memory)
}

/// Brings the memory of CRIU's plain `images` into `foam`, of which it is the last round; otherwise as [`finish`].
///
/// # Errors
/// [`PlainError`]; `images` may be of no use then.
pub fn import(images: &Path, mut foam: Foam) -> Result<Sealed, PlainError> {
    let mut plain = Vec::new();
    for entry in fs::read_dir(images).map_err(at(images))? {
        let name = entry.map_err(at(images))?.file_name();
        if let Some(owner) = name.to_str().and_then(pagemap::owner) {
            plain.push(pagemap::read(images, owner, &mut foam)?);
        }
    }
    foam.end_round();
    let sealed = finish(foam, images)?;
    let ours = pagemap::names(&sealed);
    for path in plain.iter().filter(|path| !ours.iter().any(|name| path.ends_with(name))) {
        fs::remove_file(path).map_err(at(path))?;
    }
    Ok(sealed)
}

/// Copies files of `from` that are `wanted`, and all below its directories.
fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), PlainError> {
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(at(&source))?.is_dir() {
            fs::create_dir(&target).map_err(at(&target))?;
            copy(&source, &target, &|_| true)?;
        } else if entry.file_name().to_str().is_none_or(wanted) {
            fs::copy(&source, &target).map_err(at(&target))?;
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PlainError {
    let path = path.to_path_buf();
    |source| PlainError::Io { path, source }
}
