//! The threads that serve a restored unit.
//!
//! Some wait for events: whoever gets one reads it, hands the descriptor back to the others, and serves it. The rest fill
//! in the background, from when CRIU says that the tasks run, and hold back while a fault is being served.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::fdstore::{self, Store};
use super::journal::Journal;
use super::process::{Outcome, Process, State};
use super::ranges::page;
use super::{Error, Report, Service, socket};
use crate::sys::uffd::{Event, Uffd};

/// Threads that wait for events: one to read, one to go on reading while the first waits for the disk, and two more.
pub const SERVERS: usize = 4;
/// How long the background waits before it looks again for something to do.
const PAUSE: Duration = Duration::from_millis(1);
// What epoll says instead of a process's number.
const STOP: u64 = u64::MAX;
const CONNECTION: u64 = u64::MAX - 1;

/// What the threads wait at.
pub struct Bell {
    epoll: Epoll,
    stop: EventFd,
}

impl Bell {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Self { epoll, stop })
    }
}

/// What the threads share.
pub struct Server<'a> {
    bell: Bell,
    connection: OwnedFd,
    store: &'a dyn Store,
    lost: &'a (dyn Fn(&Error) + Sync),
    journal: Mutex<Journal>,
    processes: Mutex<Vec<Arc<Process>>>,
    stopped: AtomicBool,
    running: AtomicBool,
    next: AtomicUsize,
    serving: AtomicUsize,
    faults: AtomicU64,
    filled: AtomicU64,
    error: Mutex<Option<Error>>,
}

impl<'a> Server<'a> {
    /// Ready to serve `processes`.
    pub fn new(
        bell: Bell,
        connection: OwnedFd,
        journal: Journal,
        processes: Vec<Process>,
        service: &Service<'a>,
    ) -> Self {
        Self {
            bell,
            connection,
            store: service.store,
            lost: service.lost,
            journal: Mutex::new(journal),
            processes: Mutex::new(processes.into_iter().map(Arc::new).collect()),
            stopped: AtomicBool::new(false),
            running: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            serving: AtomicUsize::new(0),
            faults: AtomicU64::new(0),
            filled: AtomicU64::new(0),
            error: Mutex::new(None),
        }
    }

    /// Serves until every process has all its memory, or none may have it. All descriptors are open until it has returned.
    ///
    /// # Errors
    /// [`Error::Lost`] and [`Error::Protocol`], after `lost` was called.
    pub fn run(self, fillers: usize) -> Result<Report, Error> {
        if let Err(e) = self.watch() {
            self.fail(e.into());
        }
        std::thread::scope(|scope| {
            for _ in 0..SERVERS {
                scope.spawn(|| self.until_stopped(Self::serve_one));
            }
            for _ in 0..fillers {
                scope.spawn(|| self.until_stopped(Self::fill_one));
            }
        });
        let processes = self.journal.into_inner().expect("no poison").processes();
        let names: Vec<_> = (0..processes).map(fdstore::process).collect();
        if let Err(e) = fdstore::clear(self.store, names.iter().map(String::as_str)) {
            tracing::warn!("systemd keeps descriptors that nobody needs: {e}");
        }
        match self.error.into_inner().expect("no poison") {
            Some(error) => Err(error),
            None => {
                let (faults, filled) = (self.faults.into_inner(), self.filled.into_inner());
                Ok(Report { faults, filled, ..Report::default() })
            }
        }
    }

    fn watch(&self) -> nix::Result<()> {
        self.bell.epoll.add(&self.connection, once(CONNECTION))?;
        for process in &*self.processes.lock().expect("no poison") {
            self.bell.epoll.add(&process.uffd, once(process.number as u64))?;
        }
        Ok(())
    }

    /// Does `step` again and again, each time with the same buffer.
    fn until_stopped(&self, step: fn(&Self, &mut Vec<u8>) -> Result<(), Error>) {
        let _guard = Mortal;
        let mut buffer = Vec::new();
        while !self.stopped.load(Ordering::Acquire) {
            if let Err(e) = step(self, &mut buffer) {
                self.fail(e);
            }
        }
    }

    /// Waits for one event and serves it.
    fn serve_one(&self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        // One: what else there is goes to the other threads.
        let mut events = [EpollEvent::empty()];
        match self.bell.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(0) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
            Ok(_) => match events[0].data() {
                STOP => Ok(()),
                CONNECTION => self.hear_criu(),
                number => self.hear(number as usize, buffer),
            },
        }
    }

    fn hear_criu(&self) -> Result<(), Error> {
        if socket::finished(&self.connection)? {
            self.running.store(true, Ordering::Release);
            self.bell.epoll.delete(&self.connection)?;
            return Ok(());
        }
        Ok(self.bell.epoll.modify(&self.connection, &mut once(CONNECTION))?)
    }

    fn hear(&self, number: usize, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let find = |p: &&Arc<Process>| p.number == number;
        let Some(process) = self.processes.lock().expect("no poison").iter().find(find).cloned() else {
            return Ok(());
        };
        let faults = self.read_events(&process, 1)?;
        match self.bell.epoll.modify(&process.uffd, &mut once(number as u64)) {
            // Another thread has ended it.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        self.serve(&process, faults, buffer)
    }

    /// Reads the process's events until there are no more, or this many faults, and returns the faults' addresses.
    fn read_events(&self, process: &Process, most: usize) -> Result<Vec<u64>, Error> {
        let mut faults = Vec::new();
        let mut state = process.state.write().expect("no poison");
        while faults.len() < most {
            let mut journal = self.journal.lock().expect("no poison");
            let Some((event, child)) = journal.read(process.number, &process.uffd)? else { break };
            match (event, child) {
                (Event::Fault(address), _) => faults.push(page(address)),
                (_, Some(uffd)) => {
                    let number = journal.keep(&event);
                    // At once: until then our death would be the child's. systemd need not be waited for: what is on its way
                    // to it stays open.
                    self.store.keep(&fdstore::process(number), uffd.as_fd())?;
                    drop(journal);
                    self.adopt(number, process, uffd, state.fork())?;
                }
                (_, None) => {
                    if state.apply(&event) {
                        tracing::debug!("process {}: {event:x?}", process.image);
                        journal.keep(&event);
                    }
                }
            }
        }
        Ok(faults)
    }

    /// Serves a forked child, too.
    fn adopt(&self, number: usize, parent: &Process, uffd: Uffd, state: State) -> Result<(), Error> {
        let child = Arc::new(Process::new(number, None, parent.image, uffd, parent.memory.clone(), state));
        self.processes.lock().expect("no poison").push(child.clone());
        Ok(self.bell.epoll.add(&child.uffd, once(number as u64))?)
    }

    /// Serves faults, and whatever else must be read before they can be.
    fn serve(&self, process: &Process, mut faults: Vec<u64>, buffer: &mut Vec<u8>) -> Result<(), Error> {
        if faults.is_empty() {
            return Ok(());
        }
        self.serving.fetch_add(1, Ordering::Relaxed);
        self.faults.fetch_add(faults.len() as u64, Ordering::Relaxed);
        let result = loop {
            let Some(address) = faults.pop() else { break Ok(()) };
            match process.fault(address, buffer) {
                Ok(Outcome::Again) => match self.read_events(process, usize::MAX) {
                    Ok(more) if more.is_empty() => process.wait(),
                    Ok(more) => faults.extend(more),
                    Err(e) => break Err(e),
                },
                Ok(Outcome::Done | Outcome::Absent) => {}
                Ok(Outcome::Gone) => break self.end(process),
                Err(e) => break Err(e),
            }
        };
        self.serving.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Brings the next piece of the next process.
    fn fill_one(&self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        if !self.running.load(Ordering::Acquire) {
            std::thread::sleep(PAUSE);
            return Ok(());
        }
        if self.serving.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(PAUSE);
        }
        crate::faults::linger("pager.fill");
        let Some(process) = self.turn()? else { return Ok(()) };
        let Some(piece) = process.state.write().expect("no poison").missing.take_next() else {
            if process.is_filled() && process.is_whole()? {
                return self.end(&process);
            }
            std::thread::sleep(PAUSE);
            return Ok(());
        };
        let outcome = process.fill(&piece, buffer);
        process.state.write().expect("no poison").missing.release(&piece);
        match outcome? {
            Outcome::Done => Ok(()),
            Outcome::Gone => self.end(&process),
            Outcome::Again | Outcome::Absent => {
                let faults = self.read_events(&process, usize::MAX)?;
                if faults.is_empty() {
                    process.wait();
                }
                self.serve(&process, faults, buffer)
            }
        }
    }

    /// The process whose turn it is; none are left when all have their memory.
    fn turn(&self) -> Result<Option<Arc<Process>>, Error> {
        let processes = self.processes.lock().expect("no poison");
        if processes.is_empty() {
            self.halt();
            return Ok(None);
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed) % processes.len();
        Ok(Some(processes[n].clone()))
    }

    /// The process needs us no more. What it still says is for nobody: when the descriptor is closed, the kernel lets go all
    /// who wait for an answer, children whose birth was not heard of included, which miss nothing either.
    fn end(&self, process: &Process) -> Result<(), Error> {
        if process.ended.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // A child whose birth is just being read is on the list before its parent leaves it.
        drop(process.state.write().expect("no poison"));
        self.journal.lock().expect("no poison").filled(process.number)?;
        process.unregister();
        let _ = self.bell.epoll.delete(&process.uffd);
        self.filled.fetch_add(process.filled.load(Ordering::Relaxed), Ordering::Relaxed);
        self.processes.lock().expect("no poison").retain(|p| p.number != process.number);
        self.store.release(&fdstore::process(process.number))?;
        Ok(())
    }

    /// The first error ends the unit, before anything is closed.
    fn fail(&self, error: Error) {
        let mut first = self.error.lock().expect("no poison");
        if first.is_none() {
            tracing::error!("{error}");
            (self.lost)(&error);
            *first = Some(error);
        }
        drop(first);
        self.halt();
    }

    fn halt(&self) {
        self.stopped.store(true, Ordering::Release);
        let _ = self.bell.stop.write(1);
    }
}

/// A panic in one thread ends all: the others could not finish without it, but a successor can.
struct Mortal;

impl Drop for Mortal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Told to one thread, until it asks again.
fn once(data: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, data)
}
