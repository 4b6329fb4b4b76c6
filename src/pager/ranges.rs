//! Which pages of a process have not come yet.
//!
//! A page has an address that it was dumped at, by which its bytes are found, and one where the process wants it now, which
//! mremap(2) changes. Only data: no system call is made here.

use std::collections::BTreeMap;

use crate::store::{PAGE, WINDOW};

/// What is read around a fault, and what the background begins with again after one, in bytes.
pub const NEIGHBOURHOOD: u64 = 64 << 10;
/// So many neighbourhoods are brought first at most. Where there are more, being first means nothing.
const MOST_HOT: usize = 1024;

/// Missing pages that follow each other, in the process as in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where the process wants them.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Address that they were dumped at.
    pub image: u64,
}

impl Piece {
    /// Address behind the last page.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// The part of it from `start` to `end`, both within it.
    pub fn part(&self, start: u64, end: u64) -> Self {
        Self { start, len: end - start, image: self.image + (start - self.start) }
    }

    /// How far it has moved.
    fn shift(&self) -> u64 {
        self.start.wrapping_sub(self.image)
    }
}

/// All missing pages of a process. A page stays missing until somebody says that it is [`Missing::done`]: one that is on its
/// way is not there, and who asks for it must not be given zeros.
#[derive(Debug, Clone, Default)]
pub struct Missing {
    /// By `start`, without overlap.
    pieces: BTreeMap<u64, Piece>,
    /// What [`Missing::take_next`] gave and nobody has released.
    taken: Vec<Piece>,
    /// Where it goes on.
    cursor: u64,
    /// How much it gives next.
    chunk: u64,
    /// Where it goes before that, the last one first.
    hot: Vec<u64>,
}

impl Missing {
    /// Pages that are missing where they were dumped, given as (address, bytes).
    pub fn new(parts: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let pieces = parts.into_iter().map(|(start, len)| (start, Piece { start, len, image: start })).collect();
        Self { pieces, chunk: NEIGHBOURHOOD, ..Self::default() }
    }

    /// The background is to begin with what is around these `addresses`, which are in order.
    pub fn hot(mut self, addresses: &[u64]) -> Self {
        self.hot = addresses.iter().rev().map(|address| address / NEIGHBOURHOOD * NEIGHBOURHOOD).collect();
        self.hot.dedup();
        if self.hot.len() > MOST_HOT {
            self.hot.clear();
        }
        self
    }

    /// What a child that has just been forked misses.
    pub fn fork(&self) -> Self {
        Self { pieces: self.pieces.clone(), chunk: NEIGHBOURHOOD, ..Self::default() }
    }

    /// All of it, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.values().copied()
    }

    /// These are missing after all.
    pub fn again(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            // Two may have found out.
            self.remove(piece.start, piece.end());
            self.pieces.insert(piece.start, *piece);
        }
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Missing bytes.
    pub fn bytes(&self) -> u64 {
        self.pieces.values().map(|p| p.len).sum()
    }

    /// What is worth bringing with the page at `address`, or `None` where that page is not missing. The background goes on
    /// behind it, from where who touched this will touch more; unless that is what it is doing already.
    pub fn around(&mut self, address: u64) -> Option<Piece> {
        let piece = self.at(address)?;
        let start = piece.start.max(address / NEIGHBOURHOOD * NEIGHBOURHOOD);
        let end = piece.end().min((address / NEIGHBOURHOOD + 1) * NEIGHBOURHOOD);
        if !self.taken.iter().any(|t| (t.start..t.end()).contains(&address)) {
            (self.cursor, self.chunk) = (end, NEIGHBOURHOOD);
        }
        Some(piece.part(start, end))
    }

    /// What the background is to bring next: what is hot, then the pages behind the last ones, more each time, none that
    /// somebody else brings, and all of one window of the image. `None` where there is nothing, or all is on its way.
    pub fn take_next(&mut self) -> Option<Piece> {
        let taken = match self.next_hot() {
            Some(next) => next,
            None => {
                let next = self.free_from(self.cursor).or_else(|| self.free_from(0))?;
                let taken = within_window(&next, next.start + next.len.min(self.chunk));
                (self.cursor, self.chunk) = (taken.end(), (self.chunk * 2).min(WINDOW));
                taken
            }
        };
        self.taken.push(taken);
        Some(taken)
    }

    /// What is still free of the hot neighbourhoods. Each address comes once, whatever becomes of it.
    fn next_hot(&mut self) -> Option<Piece> {
        while let Some(from) = self.hot.pop() {
            let end = (from / NEIGHBOURHOOD + 1) * NEIGHBOURHOOD;
            let Some(next) = self.free_from(from).filter(|next| next.start < end) else { continue };
            let taken = within_window(&next, next.end().min(end));
            if taken.end() < end {
                self.hot.push(taken.end());
            }
            return Some(taken);
        }
        None
    }

    /// The taker of `piece` is through with it.
    pub fn release(&mut self, piece: &Piece) {
        self.taken.retain(|t| t != piece);
    }

    /// The parts of `piece` that are still missing at the same place: an event may have come since it was looked up.
    pub fn still(&self, piece: &Piece) -> Vec<Piece> {
        let first = self.pieces.range(..=piece.start).next_back().map_or(piece.start, |(start, _)| *start);
        let touching = self.pieces.range(first..piece.end()).map(|(_, p)| p);
        let same = touching.filter(|p| p.end() > piece.start && p.shift() == piece.shift());
        same.map(|p| p.part(p.start.max(piece.start), p.end().min(piece.end()))).collect()
    }

    /// The process has these pages now. Pages that have moved to their place meanwhile are others, and stay missing.
    pub fn done(&mut self, piece: &Piece) {
        for part in self.still(piece) {
            self.remove(part.start, part.end());
        }
    }

    /// Nobody will ask for what was missing between `start` and `end` any more, because it was freed or unmapped. Returns
    /// whether anything was.
    pub fn remove(&mut self, start: u64, end: u64) -> bool {
        !self.extract(start, end).is_empty()
    }

    /// The process has moved `len` bytes. Returns whether anything of it was missing.
    pub fn remap(&mut self, from: u64, to: u64, len: u64) -> bool {
        let moved = self.extract(from, from + len);
        let covered = self.remove(to, to + len);
        for piece in &moved {
            let start = piece.start - from + to;
            self.pieces.insert(start, Piece { start, ..*piece });
        }
        covered || !moved.is_empty()
    }

    /// How many bytes from `start` on, up to `end`, are before the first missing page.
    pub fn free_until(&self, start: u64, end: u64) -> u64 {
        match self.at(start) {
            Some(_) => 0,
            None => self.pieces.range(start..end).next().map_or(end, |(first, _)| *first) - start,
        }
    }

    /// The piece that `address` lies in.
    fn at(&self, address: u64) -> Option<Piece> {
        self.pieces.range(..=address).next_back().map(|(_, p)| *p).filter(|p| p.end() > address)
    }

    /// The first missing pages from `address` on that nobody has taken.
    fn free_from(&self, mut address: u64) -> Option<Piece> {
        loop {
            let piece = match self.at(address) {
                Some(piece) => piece.part(address, piece.end()),
                None => *self.pieces.range(address..).next()?.1,
            };
            let taken = self.taken.iter().filter(|t| t.end() > piece.start).min_by_key(|t| t.start);
            match taken {
                Some(taken) if taken.start <= piece.start => address = taken.end(),
                Some(taken) => return Some(piece.part(piece.start, piece.end().min(taken.start))),
                None => return Some(piece),
            }
        }
    }

    /// Takes out what lies between `start` and `end`.
    fn extract(&mut self, start: u64, end: u64) -> Vec<Piece> {
        self.split(start);
        self.split(end);
        let keys: Vec<u64> = self.pieces.range(start..end.max(start)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.pieces.remove(key)).collect()
    }

    fn split(&mut self, address: u64) {
        let Some(piece) = self.at(address).filter(|p| p.start < address) else { return };
        self.pieces.insert(piece.start, piece.part(piece.start, address));
        self.pieces.insert(address, piece.part(address, piece.end()));
    }
}

/// The part of `piece` up to `end`, as far as it is of one window of the image.
fn within_window(piece: &Piece, end: u64) -> Piece {
    piece.part(piece.start, end.min(piece.start + WINDOW - piece.image % WINDOW))
}

/// Where a page begins.
pub fn page(address: u64) -> u64 {
    address / PAGE * PAGE
}

#[cfg(test)]
#[path = "ranges_tests.rs"]
mod tests;
