//! The pages of one window: which are there, which may come late, which are needed first, and what each has to be.

use std::ops::Range;

use super::{PAGE, WINDOW};

/// Pages in a window.
pub const PAGES: usize = (WINDOW / PAGE) as usize;

/// A set of a window's pages, by their numbers in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(pub [u64; PAGES / 64]);

impl Set {
    /// Is `page` in it?
    pub fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 == 1
    }

    /// Puts `page` in, or takes it out.
    pub fn set(&mut self, page: usize, there: bool) {
        let bit = 1 << (page % 64);
        if there {
            self.0[page / 64] |= bit;
        } else {
            self.0[page / 64] &= !bit;
        }
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.0 == [0; PAGES / 64]
    }

    /// Takes out what is not in `other`.
    pub fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own &= other);
    }

    /// Is all of it in `other`?
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, other)| own & !other == 0)
    }

    /// Its pages in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..PAGES).filter(|page| self.has(*page))
    }
}

/// One window of an owner's memory, and the slot that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Number of the slot on the medium.
    pub slot: u64,
    /// Pages that are there.
    pub pages: Set,
    /// Those of them that CRIU may leave to the pager.
    pub lazy: Set,
    /// Those of them that only the last of several rounds has written: they were written to last, and are needed first.
    pub hot: Set,
    /// XXH3 of each page that is there.
    pub sums: Box<[u64; PAGES]>,
}

impl Window {
    /// What one takes in memory, with its place in a map, bytes.
    pub const SIZE: u64 = (size_of::<Self>() + PAGES * size_of::<u64>() + 32) as u64;

    /// A window of which nothing is there yet.
    pub fn new(slot: u64) -> Self {
        let [pages, lazy, hot] = [Set::default(); 3];
        Self { slot, pages, lazy, hot, sums: Box::new([0; PAGES]) }
    }
}

/// A piece of an address range that lies in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Number of the window: its address divided by [`WINDOW`].
    pub window: u64,
    /// Pages in it.
    pub pages: Range<usize>,
}

impl Piece {
    /// Bytes from the window's begin to the piece.
    pub fn offset(&self) -> u64 {
        self.pages.start as u64 * PAGE
    }

    /// Bytes of the piece.
    pub fn bytes(&self) -> usize {
        self.pages.len() * PAGE as usize
    }

    /// Address of `page` of its window.
    pub fn address(&self, page: usize) -> u64 {
        self.window * WINDOW + page as u64 * PAGE
    }
}

/// Cuts `pages` pages from `address` on at the windows' ends. The range does not go beyond the address space.
pub fn pieces(address: u64, pages: u64) -> impl Iterator<Item = Piece> {
    let (mut next, end) = (address / PAGE, address / PAGE + pages);
    std::iter::from_fn(move || {
        let first = next % PAGES as u64;
        let count = (end - next).min(PAGES as u64 - first);
        let piece = Piece { window: next / PAGES as u64, pages: first as usize..(first + count) as usize };
        next += count;
        (count > 0).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_with_their_windows() {
        let cut: Vec<_> = pieces(WINDOW - PAGE, 514).collect();
        let expected = [(0, 511..512), (1, 0..512), (2, 0..1)];
        assert_eq!(cut, expected.map(|(window, pages)| Piece { window, pages }));
        assert_eq!(cut[1].address(3), WINDOW + 3 * PAGE);
        assert_eq!(pieces(0, 0).count(), 0);
    }
}
