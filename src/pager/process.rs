//! One process whose memory is being filled.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Error;
use super::journal::apply;
use super::ranges::{Missing, Piece};
use crate::inspect::maps;
use crate::store::{Memory, PAGE};
use crate::sys::pagescan;
use crate::sys::uffd::{Event, Uffd};

/// How long the kernel may say "not now" without anything getting on. A fork of a large process takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for an event that must be coming.
const SOON: u16 = 1;
/// Pages beside a fault that are zero as well are made so with it, up to here in bytes.
const ZEROS: u64 = 64 << 10;
/// How often pages that have vanished are brought anew.
const MOST_HEALED: u64 = 3;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Done,
    /// The process is changing its mappings, or has no memory: later.
    Again,
    /// Some of it has no registered mapping (yet, or any more; an event says which).
    Absent,
    /// The process is gone.
    Gone,
}

/// What is missing.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// In truth.
    pub missing: Missing,
    /// For a successor, who knows the journal only.
    pub known: Missing,
}

impl State {
    /// That of a task that CRIU has just made: all that could wait is missing.
    pub fn new(memory: &dyn Memory) -> Self {
        let lazy = memory.extents().iter().filter(|e| e.lazy);
        let missing = Missing::new(lazy.map(|e| (e.start, e.pages * PAGE)));
        Self { known: missing.clone(), missing: missing.hot(&memory.hot()) }
    }

    /// That of a child at its birth.
    pub fn fork(&self) -> Self {
        Self { missing: self.missing.fork(), known: self.known.fork() }
    }

    /// Follows an event. Returns whether it matters to a successor.
    pub fn apply(&mut self, event: &Event) -> bool {
        apply(event, &mut self.missing);
        apply(event, &mut self.known)
    }
}

/// A process, by its userfaultfd. Pages are put in under the state's read lock, events read and applied under its write lock:
/// so no page goes to a place that an event has just taken away.
pub struct Process {
    /// Its number in the journal.
    pub number: usize,
    /// PID, unless it was forked since: an event does not tell that.
    pub pid: Option<i32>,
    /// The PID of the image that it comes from.
    pub image: i32,
    /// Its memory.
    pub memory: Arc<dyn Memory>,
    /// How to get at it.
    pub uffd: Uffd,
    /// What is missing.
    pub state: RwLock<State>,
    /// Whether somebody has already ended it.
    pub ended: AtomicBool,
    /// Bytes that were put in.
    pub filled: AtomicU64,
    stuck: Mutex<Option<Instant>>,
    healed: AtomicU64,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("number", &self.number).field("image", &self.image).finish_non_exhaustive()
    }
}

impl Process {
    /// One that is to be filled from `memory`, which is that of the image of `image`.
    pub fn new(number: usize, pid: Option<i32>, image: i32, uffd: Uffd, memory: Arc<dyn Memory>, state: State) -> Self {
        let (state, stuck) = (RwLock::new(state), Mutex::new(None));
        let (ended, filled) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { number, pid, image, memory, uffd, state, ended, filled, stuck, healed: AtomicU64::new(0) }
    }

    /// Whether nothing is missing.
    pub fn is_filled(&self) -> bool {
        self.state.read().expect("no poison").missing.is_empty()
    }

    /// Whether all that was to come has come, as the kernel sees it. What has not is missing again: nobody knows why, but as
    /// long as the userfaultfd is there it can be brought. Of a child that was forked meanwhile nothing is known.
    ///
    /// # Errors
    /// [`Error::Lost`] when that has happened too often.
    pub fn is_whole(&self) -> Result<bool, Error> {
        let mut state = self.state.write().expect("no poison");
        let pagemap = self.pid.and_then(|pid| File::open(format!("/proc/{pid}/pagemap")).ok());
        let mut absent = pagemap.map_or_else(Vec::new, |pagemap| absent(&pagemap, &state.known));
        absent.retain(|piece| has_content(self.memory.as_ref(), piece));
        if absent.is_empty() {
            return Ok(true);
        }
        tracing::error!("process {}: pages that were brought are not there: {absent:x?}", self.image);
        if self.healed.fetch_add(1, Ordering::Relaxed) == MOST_HEALED {
            return Err(self.lost("pages that were brought vanish".into()));
        }
        state.missing.again(&absent);
        Ok(false)
    }

    /// Brings what the thread that waits at `address` needs.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn fault(&self, address: u64, buffer: &mut Vec<u8>) -> Result<Outcome, Error> {
        let piece = self.state.write().expect("no poison").missing.around(address);
        let outcome = match piece {
            Some(piece) => self.fill(&piece, buffer)?,
            None => self.zero(address)?,
        };
        // It finds the page, or asks anew: the page may have moved, or somebody else brought it (EEXIST wakes nobody).
        let _ = self.uffd.wake(address, PAGE);
        Ok(outcome)
    }

    /// Reads `piece` and puts it in.
    ///
    /// # Errors
    /// [`Error::Lost`]: it cannot be read, or the kernel does not take it.
    pub fn fill(&self, piece: &Piece, buffer: &mut Vec<u8>) -> Result<Outcome, Error> {
        buffer.resize(piece.len as usize, 0);
        self.memory.read(piece.image, buffer).map_err(|e| self.lost(format!("page {:x}: {e}", piece.image)))?;
        let mut put = Put { uffd: &self.uffd, done: Vec::new(), outcome: Outcome::Done };
        {
            let state = self.state.read().expect("no poison");
            for part in state.missing.still(piece) {
                let from = (part.start - piece.start) as usize;
                put.piece(&part, &buffer[from..from + part.len as usize]).map_err(|e| self.lost(e.to_string()))?;
            }
        }
        let mut state = self.state.write().expect("no poison");
        for done in &put.done {
            state.missing.done(done);
        }
        drop(state);
        self.filled.fetch_add(put.done.iter().map(|p| p.len).sum(), Ordering::Relaxed);
        self.judge(put.outcome, !put.done.is_empty())
    }

    /// Nothing was ever there, or it was freed: zeros, unless another page has come there since `address` was looked up.
    fn zero(&self, address: u64) -> Result<Outcome, Error> {
        let state = self.state.read().expect("no poison");
        let around = Piece { start: address, len: ZEROS - address % ZEROS, image: address };
        let free = state.missing.free_until(around.start, around.end());
        let mut outcome = Outcome::Again;
        for len in [free, PAGE].into_iter().filter(|len| (PAGE..=free).contains(len)) {
            outcome = match self.uffd.zero(address, len) {
                Ok(_) | Err(Errno::EEXIST) => Outcome::Done,
                Err(e) => classify(e).ok_or_else(|| self.lost(e.to_string()))?,
            };
            if outcome != Outcome::Absent {
                break;
            }
        }
        drop(state);
        // A thread that touches what is not mapped gets its signal once it is woken: no reason to lose patience.
        let moving = outcome == Outcome::Absent;
        self.judge(outcome, moving)
    }

    /// Waits a moment for an event.
    pub fn wait(&self) {
        let _ = poll(&mut [PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(SOON));
    }

    /// Lets all threads that wait for a page ask anew.
    ///
    /// # Errors
    /// When the kernel knows no such addresses.
    pub fn wake_all(&self) -> io::Result<()> {
        // The user's part of the address space has one of these sizes, and the kernel wants the exact one or less.
        const BITS: [u32; 6] = [56, 52, 48, 47, 42, 39];
        const FIRST: u64 = 64 << 10;
        let woken = BITS.iter().any(|bits| self.uffd.wake(FIRST, (1 << bits) - PAGE - FIRST).is_ok());
        if woken { Ok(()) } else { Err(Errno::last().into()) }
    }

    /// Makes its memory ordinary now, as far as its mappings can be looked up. Otherwise that is so as soon as all
    /// duplicates of the descriptor are closed; but until then nobody serves its faults.
    pub fn unregister(&self) {
        let text = self.pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/maps")).ok());
        for (mapping, ..) in maps::parse(&text.unwrap_or_default()) {
            // Most were never registered.
            let _ = self.uffd.unregister(mapping.start, mapping.len());
        }
    }

    /// The error that means the end of this process.
    pub fn lost(&self, reason: String) -> Error {
        Error::Lost { pid: self.image, reason }
    }

    /// Notes progress, and loses patience where there has been none for long.
    fn judge(&self, outcome: Outcome, progress: bool) -> Result<Outcome, Error> {
        let mut stuck = self.stuck.lock().expect("no poison");
        if progress || matches!(outcome, Outcome::Done | Outcome::Gone) {
            *stuck = None;
        } else if stuck.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Err(self.lost(format!("the kernel has not taken its pages for {} s", PATIENCE.as_secs())));
        }
        Ok(outcome)
    }
}

/// What of `due` a process does not have. Nothing, where the kernel does not tell (before Linux 6.7), or it is gone.
fn absent(pagemap: &File, due: &Missing) -> Vec<Piece> {
    let mut gaps = Vec::new();
    for piece in due.pieces() {
        let there = match pagescan::anonymous(pagemap, piece.start..piece.end()) {
            Ok(there) => there,
            Err(e) => {
                tracing::debug!("it is not seen whether pages are there: {e}");
                return Vec::new();
            }
        };
        let mut from = piece.start;
        for range in there {
            if range.start > from {
                gaps.push(piece.part(from, range.start));
            }
            from = range.end;
        }
        if from < piece.end() {
            gaps.push(piece.part(from, piece.end()));
        }
    }
    gaps
}

/// Is anything but zeros stored for `piece`? Nothing of zeros is lost where the kernel shows its own page of them: it puts that in
/// the place of what is zeros in a huge page that is hardly used (from Linux 6.12), and of same pages (KSM).
fn has_content(memory: &dyn Memory, piece: &Piece) -> bool {
    let mut page = [0; PAGE as usize];
    let mut pages = (piece.image..piece.image + piece.len).step_by(PAGE as usize);
    // What cannot be read is for the one to say who brings it.
    pages.any(|address| memory.read(address, &mut page).is_err() || page.iter().any(|byte| *byte != 0))
}

/// Putting pages in, part by part.
struct Put<'a> {
    uffd: &'a Uffd,
    done: Vec<Piece>,
    outcome: Outcome,
}

impl Put<'_> {
    /// Puts `data` in at `piece`, as far as it goes.
    fn piece(&mut self, piece: &Piece, data: &[u8]) -> nix::Result<()> {
        let page = PAGE as usize;
        let (mut at, mut most) = (0, data.len());
        while at < data.len() && matches!(self.outcome, Outcome::Done | Outcome::Absent) {
            let end = data.len().min(at + most);
            let place = piece.start + at as u64;
            match self.uffd.copy(place, &data[at..end]) {
                Ok(bytes) => {
                    at += self.there(piece, at, bytes);
                    most *= 2;
                }
                Err(Errno::EEXIST) => {
                    let _ = self.uffd.wake(place, PAGE);
                    at += self.there(piece, at, page);
                }
                Err(e) => match classify(e).ok_or(e)? {
                    // Perhaps it is more than one mapping.
                    Outcome::Absent if end - at > page => most = ((end - at) / 2 / page).max(1) * page,
                    outcome => {
                        self.outcome = outcome;
                        (at, most) = (at + page, page);
                    }
                },
            }
        }
        Ok(())
    }

    fn there(&mut self, piece: &Piece, at: usize, bytes: usize) -> usize {
        let (start, image) = (piece.start + at as u64, piece.image + at as u64);
        self.done.push(Piece { start, len: bytes as u64, image });
        bytes
    }
}

/// What an error of UFFDIO_COPY and UFFDIO_ZEROPAGE means; `None` for one that should not be.
fn classify(e: Errno) -> Option<Outcome> {
    match e {
        Errno::EAGAIN | Errno::ENOMEM => Some(Outcome::Again),
        // CRIU's pager takes ENOENT so, too: the mapping may just be moving, and the event about it still come.
        Errno::ENOENT | Errno::EINVAL => Some(Outcome::Absent),
        // Its memory is: it has ended, or executed another program.
        Errno::ESRCH => Some(Outcome::Gone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Extent;

    /// Zeros, but for the page at `full`; nothing can be read from `broken` on.
    struct Sparse {
        full: u64,
        broken: u64,
    }

    impl Memory for Sparse {
        fn extents(&self) -> &[Extent] {
            &[]
        }

        fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()> {
            if address >= self.broken {
                return Err(io::Error::other("its checksum is another"));
            }
            data.fill(0);
            data[PAGE as usize - 1] = u8::from(address == self.full);
            Ok(())
        }
    }

    #[test]
    fn zeros_that_are_not_there_are_no_loss() {
        let memory = Sparse { full: 7 * PAGE, broken: 20 * PAGE };
        let lost = |first: u64, pages: u64| {
            has_content(&memory, &Piece { start: 0x7000_0000, len: pages * PAGE, image: first * PAGE })
        };
        assert_eq!([lost(0, 7), lost(8, 12), lost(0, 8), lost(7, 1), lost(19, 2)], [false, false, true, true, true]);
    }
}
