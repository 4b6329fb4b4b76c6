//! CRIU's images of memory: `pagemap-PID.img` and `pagemap-shmem-ID.img` say which pages there are, `pages-N.img` has
//! them one after the other (images/pagemap.proto, criu/pagemap.c).

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::image::{self, ImageError, Messages};
use crate::store::{Extent, Foam, FoamError, Memory, Owner, PAGE, Sealed, WINDOW};

/// criu/include/magic.h; that of shared memory is the same.
const MAGIC: u32 = 0x5608_4025;
/// Numbers of `pages-N.img` from here on are ours: CRIU counts its own from 1, and its page server from here.
const FIRST_PAGES: u32 = 0x1_0001;
/// Pages of one entry: CRIU up to 4.1.1 counts an entry's bytes in 32 bits.
const MAX_ENTRY: u64 = 1 << 18;

/// They are in the image before this one.
pub const PARENT: u32 = 1;
/// They may come late.
pub const LAZY: u32 = 2;
/// They are in `pages-N.img`.
pub const PRESENT: u32 = 4;

#[derive(Clone, Copy, PartialEq, Message)]
struct Head {
    #[prost(uint32, required, tag = "1")]
    pages_id: u32,
}

/// CRIU up to 4.1.1 knows only the count of 32 bits; from 4.2 on it reads that of 64 where there is one, and writes 0 into
/// the other.
#[derive(Clone, Copy, PartialEq, Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    address: u64,
    #[prost(uint32, required, tag = "2")]
    compat_count: u32,
    #[prost(bool, optional, tag = "3")]
    in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    flag_bits: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    count: Option<u64>,
}

impl Entry {
    /// As CRIU's init_compat_pagemap_entry().
    fn flags(&self) -> u32 {
        match (self.in_parent, self.flag_bits) {
            (Some(true), flags) => flags.unwrap_or(0) | PARENT,
            (_, flags) => flags.unwrap_or(PRESENT),
        }
    }

    fn pages(&self) -> u64 {
        self.count.unwrap_or(self.compat_count.into())
    }
}

/// Writes the images of `memory` into `images`. `lazy_elsewhere`: pages that may come late are only mentioned, as
/// `criu restore --lazy-pages` needs it; otherwise the images have everything.
///
/// # Errors
/// When a page cannot be read or a file not be written; names it.
pub fn write(memory: &Sealed, images: &Path, lazy_elsewhere: bool) -> io::Result<()> {
    for ((owner, pages), number) in memory.owners().zip(FIRST_PAGES..) {
        let (map, data) = (images.join(map_name(owner)), images.join(pages_name(number)));
        let result = write_one(&**pages, (&map, &data), number, lazy_elsewhere);
        result.map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", map.display())))?;
    }
    Ok(())
}

fn write_one(memory: &impl Memory, (map, data): (&Path, &Path), number: u32, lazy_elsewhere: bool) -> io::Result<()> {
    let mut map = BufWriter::new(File::create(map)?);
    let mut data = File::create(data)?;
    let mut buffer = vec![0; WINDOW as usize];
    image::head(&mut map, MAGIC)?;
    image::message(&mut map, &Head { pages_id: number })?;
    for extent in memory.extents().iter().flat_map(entries) {
        let flags = match (extent.lazy, lazy_elsewhere) {
            (true, true) => LAZY,
            (true, false) => LAZY | PRESENT,
            (false, _) => PRESENT,
        };
        image::message(
            &mut map,
            &Entry {
                address: extent.start,
                compat_count: extent.pages as u32,
                in_parent: None,
                flag_bits: Some(flags),
                count: Some(extent.pages),
            },
        )?;
        if flags & PRESENT != 0 {
            each_chunk(extent.start, extent.pages, &mut buffer, |address, buffer| {
                memory.read(address, buffer)?;
                data.write_all(buffer)
            })?;
        }
    }
    map.flush()
}

/// An extent in pieces that every CRIU can count.
fn entries(extent: &Extent) -> impl Iterator<Item = Extent> + use<> {
    let Extent { start, pages, lazy } = *extent;
    (0..pages).step_by(MAX_ENTRY as usize).map(move |done| Extent {
        start: start + done * PAGE,
        pages: (pages - done).min(MAX_ENTRY),
        lazy,
    })
}

/// Does `what` with as much of `buffer` as the next pages need, until `pages` pages from `address` on are done. What it
/// gets ends where windows end.
pub(super) fn each_chunk<E>(
    address: u64,
    pages: u64,
    buffer: &mut [u8],
    mut what: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (mut next, end) = (address, address + pages * PAGE);
    while next < end {
        let length = (end - next).min(WINDOW - next % WINDOW);
        what(next, &mut buffer[..length as usize])?;
        next += length;
    }
    Ok(())
}

/// Names of the files that [`write`] makes of `memory`.
pub fn names(memory: &Sealed) -> Vec<String> {
    memory.owners().zip(FIRST_PAGES..).flat_map(|((owner, _), number)| [map_name(owner), pages_name(number)]).collect()
}

fn map_name(owner: Owner) -> String {
    match owner {
        Owner::Process(pid) => format!("pagemap-{pid}.img"),
        Owner::Shared(id) => format!("pagemap-shmem-{id}.img"),
    }
}

fn pages_name(number: u32) -> String {
    format!("pages-{number}.img")
}

/// Whose pagemap a file is, by its name.
pub fn owner(name: &str) -> Option<Owner> {
    let id = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
    match id.strip_prefix("shmem-") {
        Some(id) => id.parse().ok().map(Owner::Shared),
        None => id.parse().ok().filter(|pid| *pid > 0).map(Owner::Process),
    }
}

/// Why images could not be brought into FOAM.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// They cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Their pages cannot be stored.
    #[error(transparent)]
    Foam(#[from] FoamError),
}

/// Reads the memory of `owner` in `images` into the round of `foam` that is on; returns the file that the pages were in.
///
/// # Errors
/// [`ImportError`]; also when the images need others, as those of an incremental dump do.
pub fn read(images: &Path, owner: Owner, foam: &mut Foam) -> Result<PathBuf, ImportError> {
    read_in(images, owner, foam, image::open)
}

/// As [`read`], of images that `open` gives: the content and its length.
///
/// # Errors
/// [`ImportError`].
pub fn read_in<R: Read>(
    images: &Path,
    owner: Owner,
    foam: &mut Foam,
    open: impl Fn(&Path) -> Result<(R, u64), ImageError>,
) -> Result<PathBuf, ImportError> {
    let path = images.join(map_name(owner));
    let damaged = |what: &str| ImageError::Damaged { path: path.clone(), what: what.into() };
    let mut map = Messages::new(&path, open(&path)?, MAGIC)?;
    let head: Head = map.next()?.ok_or_else(|| damaged("it is empty"))?;
    let pages = images.join(pages_name(head.pages_id));
    let (mut data, _) = open(&pages)?;
    let mut buffer = vec![0; WINDOW as usize];
    foam.begin(owner)?;
    while let Some(entry) = map.next::<Entry>()? {
        let flags = entry.flags();
        if flags & PRESENT == 0 || flags & PARENT != 0 {
            return Err(damaged(&format!("the pages at {:#x} are not in it", entry.address)).into());
        }
        foam.fits(owner, entry.address, entry.pages())?;
        each_chunk(entry.address, entry.pages(), &mut buffer, |address, buffer| -> Result<(), ImportError> {
            data.read_exact(buffer).map_err(|cause| ImageError::Io { path: pages.clone(), cause })?;
            Ok(foam.write(owner, address, buffer, flags & LAZY != 0)?)
        })?;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_every_criu_can_count() {
        let extent = Extent { start: 0x7f00_0000_0000, pages: MAX_ENTRY * 2 + 5, lazy: true };
        let cut: Vec<_> = entries(&extent).map(|e| (e.start - extent.start, e.pages)).collect();
        let bytes = MAX_ENTRY * PAGE;
        assert_eq!(cut, [(0, MAX_ENTRY), (bytes, MAX_ENTRY), (2 * bytes, 5)]);
        assert!(u32::try_from(bytes).is_ok());
    }

    /// Entries of CRIUs of all times.
    #[test]
    fn entries_of_every_criu_are_read() {
        let old = Entry { compat_count: 3, flag_bits: Some(PRESENT | LAZY), ..Entry::default() };
        let new = Entry { compat_count: 0, count: Some(3), ..old };
        let older = Entry { flag_bits: None, ..old };
        let oldest = Entry { in_parent: Some(true), ..older };
        assert_eq!([old, new, older, oldest].map(|e| e.pages()), [3; 4]);
        assert_eq!([old, new, older, oldest].map(|e| e.flags()), [6, 6, PRESENT, PARENT]);
    }

    #[test]
    fn names_tell_whose_memory_it_is() {
        let cases = [
            ("pagemap-712.img", Some(Owner::Process(712))),
            ("pagemap-shmem-18446744073709551615.img", Some(Owner::Shared(u64::MAX))),
            ("pagemap-0.img", None),
            ("pagemap--1.img", None),
            ("pages-1.img", None),
            ("pagemap-x.img", None),
        ];
        for (name, owner) in cases {
            assert_eq!(super::owner(name), owner, "{name}");
            assert!(owner.is_none_or(|owner| map_name(owner) == name));
        }
    }
}
