//! A medium in memory that is handed over the switch, with a file beside it: for what does not fit, and where there is to be
//! a way back after a reset, for all of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::arena::Frames;
use super::window::PAGES;
use super::{Disk, Medium, PAGE, WINDOW};

/// Format and version of a table.
const MAGIC: u64 = u64::from_le_bytes(*b"kupRAM01");
/// Stands for the frame of a page that has none.
const NONE: u32 = u32::MAX;

/// Slots in frames: a page of a slot has a frame once it was written.
pub struct Ram {
    frames: Arc<dyn Frames>,
    disk: Disk,
    table: RwLock<Table>,
    /// Was it said that frames are not as they were?
    told: AtomicBool,
}

/// Which frame each page of each slot has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Is all of it in the file, too?
    pub copied: bool,
    rows: BTreeMap<u64, Box<[u32; PAGES]>>,
}

impl Ram {
    /// Nothing in `frames` and `disk`. `copied`: all goes to both.
    pub fn new(frames: Arc<dyn Frames>, disk: Disk, copied: bool) -> Self {
        Self::open(frames, disk, Table { copied, rows: BTreeMap::new() })
    }

    /// What `table` says is in `frames` and `disk`.
    pub fn open(frames: Arc<dyn Frames>, disk: Disk, table: Table) -> Self {
        Self { frames, disk, table: RwLock::new(table), told: AtomicBool::new(false) }
    }

    /// Forgets all that was written.
    pub fn forget(&self) {
        let rows = std::mem::take(&mut self.table.write().unwrap_or_else(PoisonError::into_inner).rows);
        self.frames.give(&mut rows.values().flat_map(|row| row.iter().copied()).filter(|frame| *frame != NONE));
    }

    /// What [`Ram::open`] needs beside the medium.
    pub fn table(&self) -> Table {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The frames of `count` pages; those that have none get one as long as there are any.
    fn place(&self, slot: u64, first: usize, count: usize) -> Vec<u32> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let row = &mut table.rows.entry(slot).or_insert_with(|| Box::new([NONE; PAGES]))[first..first + count];
        let lacking = row.iter().filter(|frame| **frame == NONE).count();
        let taken = self.frames.take(lacking);
        row.iter_mut().filter(|frame| **frame == NONE).zip(taken).for_each(|(frame, taken)| *frame = taken);
        row.to_vec()
    }
}

/// The slot, the first page in it, and the pages of a range; they are whole, and in one slot.
fn pages(offset: u64, length: usize) -> io::Result<(u64, usize, usize)> {
    let (slot, first, count) = (offset / WINDOW, (offset % WINDOW / PAGE) as usize, length / PAGE as usize);
    let whole = offset.is_multiple_of(PAGE) && (length as u64).is_multiple_of(PAGE) && first + count <= PAGES;
    if whole { Ok((slot, first, count)) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

impl Medium for Ram {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (slot, first, count) = pages(offset, data.len())?;
        let frames = self.place(slot, first, count);
        for (frame, data) in frames.iter().zip(data.chunks_exact(PAGE as usize)).filter(|(frame, _)| **frame != NONE) {
            self.frames.write(*frame, data)?;
        }
        let copied = self.table.read().unwrap_or_else(PoisonError::into_inner).copied;
        if copied || frames.contains(&NONE) { self.disk.write(offset, data) } else { Ok(()) }
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let (slot, first, count) = pages(offset, data.len())?;
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = table.rows.get(&slot) else { return self.disk.read(offset, data) };
        let (mut rest, mut at) = (data, first);
        for together in row[first..first + count].chunk_by(|a, b| follows(*a, *b)) {
            let (data, behind) = rest.split_at_mut(together.len() * PAGE as usize);
            rest = behind;
            match together[0] {
                NONE => self.disk.read(slot * WINDOW + at as u64 * PAGE, data)?,
                frame => self.frames.read(frame, data)?,
            }
            at += together.len();
        }
        Ok(())
    }

    fn read_copy(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if !self.table.read().unwrap_or_else(PoisonError::into_inner).copied {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "memory that was handed over is not as it was; its copy on the disk is used where it has changed"
            );
        }
        self.disk.read(offset, data)
    }

    /// Frames need nothing; what is in the file has to be on its device.
    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
}

fn follows(a: u32, b: u32) -> bool {
    if a == NONE { b == NONE } else { b != NONE && a + 1 == b }
}

impl Table {
    /// Bytes that are in frames.
    pub fn bytes(&self) -> u64 {
        self.rows.values().flat_map(|row| row.iter()).filter(|frame| **frame != NONE).count() as u64 * PAGE
    }

    /// As it is written: words of 64 bits, little-endian: magic, whether all is copied, and for each slot its number and
    /// 512 frames of 32 bits.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [MAGIC, self.copied.into()].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>();
        for (slot, row) in &self.rows {
            bytes.extend(slot.to_le_bytes());
            bytes.extend(row.iter().flat_map(|frame| frame.to_le_bytes()));
        }
        bytes
    }

    /// Reads one, of which somebody else knows that it is as it was written.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let bad =
            || io::Error::new(io::ErrorKind::InvalidData, "the table of memory that was handed over cannot be read");
        let (magic, rest) = bytes.split_first_chunk().ok_or_else(bad)?;
        let (copied, rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let rows = rest.chunks_exact(8 + 4 * PAGES);
        if u64::from_le_bytes(*magic) != MAGIC || u64::from_le_bytes(*copied) > 1 || !rows.remainder().is_empty() {
            return Err(bad());
        }
        let row = |bytes: &[u8]| {
            let (slot, frames) = bytes.split_first_chunk()?;
            let frame = |n: usize| frames[4 * n..].first_chunk().map_or(NONE, |four| u32::from_le_bytes(*four));
            Some((u64::from_le_bytes(*slot), Box::new(std::array::from_fn(frame))))
        };
        Ok(Self { copied: u64::from_le_bytes(*copied) == 1, rows: rows.filter_map(row).collect() })
    }
}

#[cfg(test)]
#[path = "ram_tests.rs"]
mod tests;
