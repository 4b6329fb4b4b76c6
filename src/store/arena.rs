//! The frames of memory that is handed over, before the switch: huge pages to write to.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::PAGE;
use super::runs::{Layout, Run};
use crate::sys::hugepage::{Pages, SIZE};

/// Pages that stay where they are over the switch, by their numbers ([`Layout`]).
pub trait Frames: Send + Sync {
    /// Reads frames that follow each other from `frame` on.
    ///
    /// # Errors
    /// When they do not exist, or cannot be read.
    fn read(&self, frame: u32, data: &mut [u8]) -> io::Result<()>;

    /// Writes one, which the caller has.
    ///
    /// # Errors
    /// When it does not exist, or nothing is written any more.
    fn write(&self, frame: u32, data: &[u8]) -> io::Result<()>;

    /// Gives the caller so many frames, or fewer where there are no more.
    fn take(&self, count: usize) -> Vec<u32>;

    /// Takes them back.
    fn give(&self, frames: &mut dyn Iterator<Item = u32>);
}

/// The frames of huge pages.
#[derive(Debug)]
pub struct Arena {
    pages: Pages,
    layout: Layout,
    /// Numbers of the pages of each run.
    numbers: Vec<Vec<usize>>,
    unused: Mutex<Unused>,
}

#[derive(Debug, Default)]
struct Unused {
    /// All from here on were never in use.
    next: u64,
    /// Those before it that were given back.
    free: Vec<u32>,
}

impl Arena {
    /// The frames of `runs`. `kept`: number and physical address of the `pages` that they consist of.
    ///
    /// # Errors
    /// When one of them is not among these, or has moved.
    pub fn new(pages: Pages, runs: &[Run], kept: &[(usize, u64)]) -> io::Result<Self> {
        let number = |address: u64| {
            let at = kept.iter().find(|(_, kept)| *kept == address).map(|(number, _)| *number);
            at.ok_or_else(|| io::Error::other(format!("the huge page at {address:#x} was given up")))
        };
        let numbers = runs.iter().map(|run| (run.start..run.start + run.length).step_by(SIZE as usize).map(number));
        let numbers = numbers.map(Iterator::collect).collect::<io::Result<_>>()?;
        let arena = Self { pages, layout: Layout::new(runs), numbers, unused: Mutex::default() };
        arena.check(runs)?;
        Ok(arena)
    }

    /// Fails unless every page still lies where the next kernel is told to find it.
    ///
    /// # Errors
    /// Names the address.
    pub fn check(&self, runs: &[Run]) -> io::Result<()> {
        for (run, numbers) in runs.iter().zip(&self.numbers) {
            for (address, number) in (run.start..).step_by(SIZE as usize).zip(numbers) {
                let is = self.pages.address(*number)?;
                if is != address {
                    return Err(io::Error::other(format!("the huge page at {address:#x} has moved to {is:#x}")));
                }
            }
        }
        Ok(())
    }

    /// Does `what` with the number of the page, and with the offset in it, of each frame of `length` bytes.
    fn each(&self, frame: u32, length: usize, mut what: impl FnMut(usize, usize, usize)) -> io::Result<()> {
        for (n, at) in (0..length).step_by(PAGE as usize).enumerate() {
            let place = self.layout.place(u64::from(frame) + n as u64).ok_or(io::ErrorKind::InvalidInput)?;
            let (page, offset) = ((place.offset / SIZE) as usize, (place.offset % SIZE) as usize);
            what(self.numbers[place.run][page], offset, at);
        }
        Ok(())
    }
}

impl Frames for Arena {
    fn read(&self, frame: u32, data: &mut [u8]) -> io::Result<()> {
        self.each(frame, data.len(), |page, offset, at| {
            let end = data.len().min(at + PAGE as usize);
            self.pages.read(page, offset, &mut data[at..end]);
        })
    }

    fn write(&self, frame: u32, data: &[u8]) -> io::Result<()> {
        self.each(frame, data.len(), |page, offset, at| {
            self.pages.write(page, offset, &data[at..data.len().min(at + PAGE as usize)]);
        })
    }

    fn take(&self, count: usize) -> Vec<u32> {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = (count as u64).min(self.layout.frames - unused.next);
        let mut taken: Vec<u32> = (unused.next..unused.next + fresh).map(|frame| frame as u32).collect();
        unused.next += fresh;
        while taken.len() < count {
            let Some(frame) = unused.free.pop() else { break };
            taken.push(frame);
        }
        taken
    }

    fn give(&self, frames: &mut dyn Iterator<Item = u32>) {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner).free.extend(frames);
    }
}
