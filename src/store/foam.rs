//! Storing memory: pages go to their places in slots, round by round.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::index::{END, Index, Owner, Windows};
use super::sealed::Sealed;
use super::window::{PAGES, Piece, Set, Window, pieces};
use super::{Medium, PAGE, WINDOW};

/// Memory that is being stored: all of a unit's, on one medium.
///
/// Each round says what memory there is, and writes those pages of it that the round before did not have or that have
/// changed since. They are overwritten in place, so a round that was not ended has spoilt the one before it.
pub struct Foam {
    medium: Arc<dyn Medium>,
    earlier: BTreeMap<Owner, Windows>,
    round: BTreeMap<Owner, Windows>,
    slots: Slots,
    /// Bytes that this round has written, and the last one that was ended.
    written: [u64; 2],
}

/// Why memory was not stored.
#[derive(Debug, thiserror::Error)]
pub enum FoamError {
    /// The medium failed.
    #[error("memory of {0} cannot be stored: {1}")]
    Medium(Owner, io::Error),
    /// An address, or a length, that cannot be.
    #[error("{0} has no {2} pages at {1:#x}")]
    Range(Owner, u64, u64),
    /// An owner began a second time in a round.
    #[error("{0} comes twice")]
    Twice(Owner),
    /// Pages of an owner that has not begun.
    #[error("{0} has not begun")]
    NotBegun(Owner),
    /// A page is to be as before, and was not there before.
    #[error("{0} has nothing stored at {1:#x}, which is said to be unchanged")]
    Missing(Owner, u64),
}

/// Which slots are in use.
#[derive(Debug, Default)]
struct Slots {
    /// All from here on were never in use.
    next: u64,
    /// Those before it that nobody uses any more.
    free: Vec<u64>,
}

impl Slots {
    fn take(&mut self) -> u64 {
        self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Foam {
    /// Nothing, on `medium`, of which every slot is free.
    pub fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium, earlier: BTreeMap::new(), round: BTreeMap::new(), slots: Slots::default(), written: [0; 2] }
    }

    /// Is there memory of `owner` from the round before?
    pub fn knows(&self, owner: Owner) -> bool {
        self.earlier.contains_key(&owner)
    }

    /// From here on `owner` is part of this round.
    ///
    /// # Errors
    /// [`FoamError::Twice`].
    pub fn begin(&mut self, owner: Owner) -> Result<(), FoamError> {
        match self.round.insert(owner, Windows::new()) {
            Some(_) => Err(FoamError::Twice(owner)),
            None => Ok(()),
        }
    }

    /// May `owner` have `pages` pages at `address`? Otherwise not even their bytes can be counted.
    ///
    /// # Errors
    /// [`FoamError::Range`].
    pub fn fits(&self, owner: Owner, address: u64, pages: u64) -> Result<(), FoamError> {
        range(owner, address, pages).map(drop)
    }

    /// Stores `data`, whole pages, as what `owner` has at `address`. `lazy`: CRIU may leave them to the pager.
    ///
    /// # Errors
    /// [`FoamError`].
    pub fn write(&mut self, owner: Owner, address: u64, data: &[u8], lazy: bool) -> Result<(), FoamError> {
        // What is shared, CRIU brings back itself.
        let lazy = lazy && matches!(owner, Owner::Process(_));
        // The first round writes everything, which says nothing.
        let hot = lazy && self.knows(owner);
        let mut rest = data;
        for piece in range(owner, address, data.len() as u64 / PAGE)? {
            let (data, behind) = rest.split_at(piece.bytes());
            rest = behind;
            let window = self.window(owner, piece.window)?;
            for (page, data) in piece.pages.clone().zip(data.chunks_exact(PAGE as usize)) {
                window.sums[page] = xxh3_64(data);
                window.pages.set(page, true);
                window.lazy.set(page, lazy);
                window.hot.set(page, hot);
            }
            let offset = window.slot * WINDOW + piece.offset();
            self.medium.write(offset, data).map_err(|e| FoamError::Medium(owner, e))?;
        }
        self.written[0] += data.len() as u64;
        Ok(())
    }

    /// Bytes that the last round has written that was ended.
    pub fn written(&self) -> u64 {
        self.written[1]
    }

    /// `pages` pages of `owner` from `address` on are as the round before had them.
    ///
    /// # Errors
    /// [`FoamError::Missing`] where it had none.
    pub fn keep(&mut self, owner: Owner, address: u64, pages: u64) -> Result<(), FoamError> {
        for piece in range(owner, address, pages)? {
            let before = self.earlier.get(&owner).and_then(|windows| windows.get(&piece.window));
            let had = before.map_or(Set::default(), |before| before.pages);
            if let Some(page) = piece.pages.clone().find(|page| !had.has(*page)) {
                return Err(FoamError::Missing(owner, piece.address(page)));
            }
            let window = self.window(owner, piece.window)?;
            piece.pages.for_each(|page| window.pages.set(page, true));
        }
        Ok(())
    }

    /// The window `number` of `owner` in this round. One that the round before had keeps its slot and, for the pages that
    /// will be kept, what is known of them.
    fn window(&mut self, owner: Owner, number: u64) -> Result<&mut Window, FoamError> {
        let windows = self.round.get_mut(&owner).ok_or(FoamError::NotBegun(owner))?;
        let before = self.earlier.get(&owner).and_then(|windows| windows.get(&number));
        Ok(windows.entry(number).or_insert_with(|| match before {
            Some(before) => Window { pages: Set::default(), hot: Set::default(), ..before.clone() },
            None => Window::new(self.slots.take()),
        }))
    }

    /// Ends the round: what it did not mention is gone.
    pub fn end_round(&mut self) {
        self.written = [0, self.written[0]];
        let before = std::mem::replace(&mut self.earlier, std::mem::take(&mut self.round));
        for (owner, windows) in before {
            let now = self.earlier.get(&owner);
            let gone = windows.into_iter().filter(|(number, _)| now.is_none_or(|now| !now.contains_key(number)));
            self.slots.free.extend(gone.map(|(_, window)| window.slot));
        }
    }

    /// Leaves to the pager only what lies in `ranges` (in order) of the process `pid`'s addresses. A page that is kept has
    /// the mark of the round that wrote it; its mapping may have been locked since, and nobody would fetch it.
    pub fn restrict_lazy(&mut self, pid: i32, ranges: &[Range<u64>]) {
        let covered = |from: u64, to: u64| {
            let range = ranges.get(ranges.partition_point(|r| r.end <= from));
            range.is_some_and(|r| r.start <= from && to <= r.end)
        };
        for (number, window) in self.earlier.get_mut(&Owner::Process(pid)).into_iter().flatten() {
            let begin = number * WINDOW;
            if covered(begin, begin + WINDOW) {
                continue;
            }
            for page in 0..PAGES {
                let address = begin + page as u64 * PAGE;
                if window.lazy.has(page) && !covered(address, address + PAGE) {
                    window.lazy.set(page, false);
                }
            }
        }
    }

    /// What the last round that was ended has left, to be read.
    pub fn seal(mut self) -> Sealed {
        for window in self.earlier.values_mut().flat_map(BTreeMap::values_mut) {
            window.lazy.keep(&window.pages);
            window.hot.keep(&window.lazy);
        }
        Sealed::new(Index(self.earlier), self.medium)
    }

    /// PIDs of the processes of the last round that was ended.
    pub fn processes(&self) -> Vec<i32> {
        let pid = |owner: &Owner| match owner {
            Owner::Process(pid) => Some(*pid),
            Owner::Shared(_) => None,
        };
        self.earlier.keys().filter_map(pid).collect()
    }
}

/// Cuts a range into windows' pieces, once it is sure that it is one.
fn range(owner: Owner, address: u64, pages: u64) -> Result<impl Iterator<Item = Piece>, FoamError> {
    let end = pages.checked_mul(PAGE).and_then(|length| address.checked_add(length));
    match end.is_some_and(|end| end <= END) && address.is_multiple_of(PAGE) {
        true => Ok(pieces(address, pages)),
        false => Err(FoamError::Range(owner, address, pages)),
    }
}

#[cfg(test)]
#[path = "foam_tests.rs"]
pub(crate) mod tests;
