//! What a pager has been told, for the one that takes over when it dies.
//!
//! # Why a restarted pager is right
//!
//! What has been filled is not written down: the successor takes all pages for missing, brings them again, and the kernel
//! refuses those that are there (EEXIST). That alone would be wrong for a page that was filled and then freed by
//! madvise(2): it is to be zero, and is not there, so its old bytes would come back. Hence events are written down, and the
//! successor applies them to what the images list.
//!
//! An event is acknowledged by being read: the process goes on at once, whether or not the reader lives on to write it down.
//! So read(2) itself writes it down: the kernel copies the message straight into the next slot of the journal, which is
//! locked shared memory. Either the event is in a slot or it is still unread, whenever the pager dies. An event that did not
//! concern a page of the images is overwritten by the next one; if the pager dies before, the successor applies it, to no
//! effect. A fault may stand in the last slot as well: nothing is applied, and the successor wakes all waiting threads, whose
//! faults then come anew.
//!
//! Only a fork leaves a gap. The child's userfaultfd is made by the read, and sent to systemd by the very next call, some
//! microseconds later; nobody can look at an event before it is read, nor have the kernel make the descriptor elsewhere. A
//! pager that dies in between takes it along. The successor finds the fork but no descriptor, says [`Error::Lost`], and the
//! unit is killed; until then, for as long as it takes to start a successor, that child reads zeros.
//!
//! [`Error::Lost`]: super::Error::Lost

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, compiler_fence};

use super::ranges::Missing;
use crate::sys::shared::{SLOT, Shared};
use crate::sys::uffd::{Event, MESSAGE, Uffd};

// A slot: a message as the kernel writes it, or one of ours that the kernel does not know; then the process's number.
const PROCESS: usize = MESSAGE;
const TASK: u8 = 0x81;
const WHOLE: u8 = 0x82;
const FILLED: u8 = 0x83;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A task of this PID is there; it gets the next number, as a forked child does.
    Task(i32),
    /// All tasks are there.
    Whole,
    /// The process of this number needs nothing more; its descriptor is closed.
    Filled(usize),
    /// The process of this number was told this.
    Told(usize, Event),
}

/// The journal of one restore.
#[derive(Debug)]
pub struct Journal {
    slots: Shared,
    used: usize,
    processes: usize,
}

impl Journal {
    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn create() -> io::Result<Self> {
        Ok(Self { slots: Shared::create()?, used: 0, processes: 0 })
    }

    /// The one that a former pager left, and what it says.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn open(fd: OwnedFd) -> io::Result<(Self, Vec<Entry>)> {
        let mut journal = Self { slots: Shared::open(fd)?, used: 0, processes: 0 };
        let mut entries = Vec::new();
        while journal.used < journal.slots.slots() {
            let Some(entry) = parse(journal.slots.slot(journal.used)?) else { break };
            journal.processes += usize::from(matches!(entry, Entry::Task(_) | Entry::Told(_, Event::Fork(_))));
            journal.used += 1;
            entries.push(entry);
        }
        Ok((journal, entries))
    }

    /// How many processes there have been.
    pub fn processes(&self) -> usize {
        self.processes
    }

    /// Its memory, to be given to systemd.
    pub fn file(&self) -> &File {
        self.slots.file()
    }

    /// Writes down a task of CRIU's, and returns its number.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn task(&mut self, pid: i32) -> io::Result<usize> {
        self.write(TASK, self.processes, pid)?;
        self.processes += 1;
        Ok(self.processes - 1)
    }

    /// Writes down that there are no more tasks to come.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn whole(&mut self) -> io::Result<()> {
        self.write(WHOLE, 0, 0)
    }

    /// Writes down that a process needs nothing more.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn filled(&mut self, process: usize) -> io::Result<()> {
        self.write(FILLED, process, 0)
    }

    /// Reads the next event of `process`, and writes it down before the process goes on. It stays only if the caller calls
    /// [`Journal::keep`].
    ///
    /// # Errors
    /// When there is no memory (nothing is read then), or the descriptor fails.
    pub fn read(&mut self, process: usize, uffd: &Uffd) -> io::Result<Option<(Event, Option<Uffd>)>> {
        let slot = self.blank(process)?;
        let message = slot.first_chunk_mut().expect("a slot holds a message");
        Ok(uffd.read(message)?)
    }

    /// The event that was read last matters to a successor. Returns the number of the child, should it be a fork.
    pub fn keep(&mut self, event: &Event) -> usize {
        self.used += 1;
        self.processes += usize::from(matches!(event, Event::Fork(_)));
        self.processes - 1
    }

    /// The next slot, made `process`'s. While it changes hands it says nothing.
    fn blank(&mut self, process: usize) -> io::Result<&mut [u8; SLOT]> {
        let slot = self.slots.slot(self.used)?;
        slot[0] = 0;
        compiler_fence(Ordering::SeqCst);
        slot[PROCESS..PROCESS + 8].copy_from_slice(&(process as u64).to_ne_bytes());
        compiler_fence(Ordering::SeqCst);
        Ok(slot)
    }

    fn write(&mut self, kind: u8, process: usize, pid: i32) -> io::Result<()> {
        let slot = self.blank(process)?;
        slot[8..12].copy_from_slice(&pid.to_ne_bytes());
        compiler_fence(Ordering::SeqCst);
        slot[0] = kind;
        self.used += 1;
        Ok(())
    }
}

fn parse(slot: &[u8; SLOT]) -> Option<Entry> {
    let process = u64::from_ne_bytes(slot[PROCESS..PROCESS + 8].try_into().expect("eight bytes")) as usize;
    Some(match slot[0] {
        TASK => Entry::Task(i32::from_ne_bytes(slot[8..12].try_into().expect("four bytes"))),
        WHOLE => Entry::Whole,
        FILLED => Entry::Filled(process),
        _ => Entry::Told(process, Event::parse(slot.first_chunk().expect("a slot holds a message"))?),
    })
}

/// What an event that is no fault and no fork changes. Returns whether it changed anything.
pub fn apply(event: &Event, missing: &mut Missing) -> bool {
    match *event {
        Event::Remap { from, to, len } => missing.remap(from, to, len),
        Event::Remove { start, end } | Event::Unmap { start, end } => missing.remove(start, end),
        Event::Fault(_) | Event::Fork(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_finds_what_was_written() {
        let mut journal = Journal::create().unwrap();
        assert_eq!(journal.task(70).unwrap(), 0);
        assert_eq!(journal.task(71).unwrap(), 1);
        journal.whole().unwrap();
        // As the kernel would: an event into the next slot, first one that stays and then one that does not.
        for (number, kept) in [(0x15, true), (0x16, false)] {
            let slot = journal.blank(1).unwrap();
            slot[8..16].copy_from_slice(&4096u64.to_ne_bytes());
            slot[16..24].copy_from_slice(&8192u64.to_ne_bytes());
            slot[0] = number;
            if kept {
                journal.keep(&Event::Remove { start: 4096, end: 8192 });
            }
        }
        let copy = journal.file().try_clone().unwrap().into();
        let (mut successor, entries) = Journal::open(copy).unwrap();
        let range = |e: fn(u64, u64) -> Event| Entry::Told(1, e(4096, 8192));
        let expected = [
            Entry::Task(70),
            Entry::Task(71),
            Entry::Whole,
            range(|start, end| Event::Remove { start, end }),
            range(|start, end| Event::Unmap { start, end }),
        ];
        assert_eq!(entries, expected);
        successor.filled(0).unwrap();
        assert_eq!(
            Journal::open(journal.file().try_clone().unwrap().into()).unwrap().1.last(),
            Some(&Entry::Filled(0))
        );
    }

    #[test]
    fn it_grows() {
        let mut journal = Journal::create().unwrap();
        for n in 0..5000 {
            journal.filled(n).unwrap();
        }
        let (_, entries) = Journal::open(journal.file().try_clone().unwrap().into()).unwrap();
        assert_eq!(entries, (0..5000).map(Entry::Filled).collect::<Vec<_>>());
    }
}
