//! Stored memory, to be read: every page is compared with its checksum.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::index::{END, Index, IndexError, Owner, Windows};
use super::window::{Piece, Window, pieces};
use super::{Extent, Medium, Memory, PAGE, WINDOW};

/// All memory of a checkpoint.
#[derive(Clone)]
pub struct Sealed {
    owners: BTreeMap<Owner, Arc<Pages>>,
    medium: Arc<dyn Medium>,
}

/// The memory of one owner.
pub struct Pages {
    owner: Owner,
    windows: Windows,
    extents: Vec<Extent>,
    medium: Arc<dyn Medium>,
}

impl Sealed {
    pub(super) fn new(index: Index, medium: Arc<dyn Medium>) -> Self {
        let pages = |(owner, windows): (Owner, Windows)| {
            let extents = extents(&windows);
            (owner, Arc::new(Pages { owner, windows, extents, medium: medium.clone() }))
        };
        Self { owners: index.0.into_iter().map(pages).collect(), medium: medium.clone() }
    }

    /// What `index` says is on `medium`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(index: &[u8], medium: Arc<dyn Medium>) -> Result<Self, IndexError> {
        Ok(Self::new(Index::decode(index)?, medium))
    }

    /// What [`Sealed::open`] needs beside the medium.
    pub fn index(&self) -> Vec<u8> {
        Index::encode(self.owners.iter().map(|(owner, pages)| (*owner, &pages.windows)))
    }

    /// Whose memory there is, and what it is.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = (Owner, &Arc<Pages>)> {
        self.owners.iter().map(|(owner, pages)| (*owner, pages))
    }

    /// The memory of the process `pid`.
    pub fn process(&self, pid: i32) -> Option<Arc<Pages>> {
        self.owners.get(&Owner::Process(pid)).cloned()
    }

    /// Returns when all of it will be there after the switch.
    ///
    /// # Errors
    /// As the medium's.
    pub fn sync(&self) -> io::Result<()> {
        self.medium.sync()
    }
}

impl Memory for Pages {
    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn hot(&self) -> Vec<u64> {
        let windows = self.windows.iter();
        windows
            .flat_map(|(number, window)| window.hot.iter().map(move |page| number * WINDOW + page as u64 * PAGE))
            .collect()
    }

    fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()> {
        let pages = data.len() as u64 / PAGE;
        if address.checked_add(data.len() as u64).is_none_or(|end| end > END) {
            return Err(self.wrong(address, "is not in its address space"));
        }
        let mut rest = data;
        for piece in pieces(address, pages) {
            let (data, behind) = rest.split_at_mut(piece.bytes());
            rest = behind;
            let window = self.window(&piece)?;
            let offset = window.slot * WINDOW + piece.offset();
            let read = self.medium.read(offset, data);
            for (n, (page, data)) in piece.pages.clone().zip(data.chunks_exact_mut(PAGE as usize)).enumerate() {
                let whole = |data: &[u8]| xxh3_64(data) == window.sums[page];
                if read.is_ok() && whole(data) {
                    continue;
                }
                let copy = self.medium.read_copy(offset + n as u64 * PAGE, data);
                match (&read, copy) {
                    (_, Ok(())) if whole(data) => {}
                    (Err(e), _) => return Err(self.failed(piece.address(page), e)),
                    (Ok(()), _) => return Err(self.wrong(piece.address(page), "has changed since it was stored")),
                }
            }
        }
        Ok(())
    }
}

impl Pages {
    /// The window of `piece`, all of which is there.
    fn window(&self, piece: &Piece) -> io::Result<&Window> {
        let window = self.windows.get(&piece.window);
        let missing = piece.pages.clone().find(|page| window.is_none_or(|window| !window.pages.has(*page)));
        match (window, missing) {
            (Some(window), None) => Ok(window),
            (_, page) => Err(self.wrong(piece.address(page.unwrap_or(piece.pages.start)), "was not stored")),
        }
    }

    fn failed(&self, address: u64, e: &io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("memory of {} at {address:#x}: {e}", self.owner))
    }

    fn wrong(&self, address: u64, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("memory of {} at {address:#x} {what}", self.owner))
    }
}

/// Pages that follow each other and are equally lazy.
fn extents(windows: &Windows) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (number, window) in windows {
        for page in window.pages.iter() {
            let (start, lazy) = (number * WINDOW + page as u64 * PAGE, window.lazy.has(page));
            match extents.last_mut() {
                Some(last) if last.start + last.pages * PAGE == start && last.lazy == lazy => last.pages += 1,
                _ => extents.push(Extent { start, pages: 1, lazy }),
            }
        }
    }
    extents
}
