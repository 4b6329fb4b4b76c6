//! Between CRIU's own images and those whose memory is in FOAM.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
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
    #[error("{path}: {cause}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
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
    let plain = read(images, &mut foam)?;
    let sealed = finish(foam, images)?;
    let ours = pagemap::names(&sealed);
    for path in plain.iter().filter(|path| !ours.iter().any(|name| path.ends_with(name))) {
        fs::remove_file(path).map_err(at(path))?;
    }
    Ok(sealed)
}

/// Copies CRIU's plain images in `from` into the directory `to`, with their memory in FOAM there; otherwise as [`finish`].
///
/// # Errors
/// [`PlainError`]; what is in `to` is of no use then.
pub fn adopt(from: &Path, to: &Path) -> Result<Sealed, PlainError> {
    let slots = to.join(SLOTS);
    let mut foam = Foam::new(Arc::new(Disk::create(&slots).map_err(at(&slots))?));
    let pages: HashSet<PathBuf> = read(from, &mut foam)?.into_iter().collect();
    let memory = |name: &str| pages.contains(&from.join(name)) || pagemap::owner(name).is_some();
    copy(from, to, &|name| !memory(name) && ![INDEX, SLOTS, RAM].contains(&name))?;
    finish(foam, to)
}

/// Reads the memory of plain `images` as the last round of `foam`; returns the files that pages were in.
fn read(images: &Path, foam: &mut Foam) -> Result<Vec<PathBuf>, PlainError> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(images).map_err(at(images))? {
        let name = entry.map_err(at(images))?.file_name();
        if let Some(owner) = name.to_str().and_then(pagemap::owner) {
            pages.push(pagemap::read(images, owner, foam)?);
        }
    }
    foam.end_round();
    Ok(pages)
}

/// Copies files of `from` that are `wanted`, and all below its directories, with their owners. A restore leaves its socket
/// among the images, and a dump in rounds a link: those stay behind.
fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<(), PlainError> {
    for entry in fs::read_dir(from).map_err(at(from))? {
        let entry = entry.map_err(at(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let meta = entry.metadata().map_err(at(&source))?;
        if meta.is_dir() {
            fs::create_dir(&target).map_err(at(&target))?;
            copy(&source, &target, &|_| true)?;
        } else if meta.is_file() && entry.file_name().to_str().is_none_or(wanted) {
            fs::copy(&source, &target).map_err(at(&target))?;
        } else {
            continue;
        }
        be_like(&target, &meta).map_err(at(&target))?;
    }
    Ok(())
}

/// CRIU compares owner and mode of the copy of a deleted file with what it was.
fn be_like(target: &Path, meta: &Metadata) -> io::Result<()> {
    chown(target, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(target, meta.permissions())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PlainError {
    let path = path.to_path_buf();
    |cause| PlainError::Io { path, cause }
}
