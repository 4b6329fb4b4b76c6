//! Memory on demand: a unit runs before its memory is back, and gets each page when it asks for it, the rest after that.
//!
//! CRIU leaves anonymous private memory empty (`lazy_pages` of its restore) and gives us a userfaultfd for each task
//! ([`socket`]). What a task touches is brought first, all else in the background ([`serve`]); what it does to its mappings
//! meanwhile is followed ([`ranges`]). In the end its memory is as any other, with huge pages where there were some
//! ([`collapse`]).
//!
//! # Never zeros
//!
//! When the last descriptor of a userfaultfd is closed, the kernel fills what is missing with zeros and tells nobody. So:
//!
//! - systemd holds a duplicate of each ([`fdstore`]). A pager that dies is started again and goes on ([`journal`]);
//!   threads that touch missing memory wait meanwhile.
//! - What cannot be gone on with, bytes that cannot be read or are not those that were written included, ends in a call of
//!   `lost`, which is to kill every task of the unit *before it returns*; only then are descriptors closed.
//!
//! # The service that it wants to be
//!
//! One for each restored unit, started before its restore:
//!
//! ```text
//! [Service]
//! Type=notify                      # READY=1 when it listens; the restore may begin
//! Restart=on-failure
//! RestartPreventExitStatus=…       # what it exits with once `lost` was called, and what its own side ends it by
//! RestartForceExitStatus=SIGTERM … # what else would pass for success
//! RestartSec=0
//! StartLimitBurst=3                # with StartLimitIntervalSec= in [Unit]
//! FileDescriptorStoreMax=4096      # one a process, two more
//! FileDescriptorStorePreserve=yes  # else they are closed before ExecStopPost= and OnFailure= could kill the unit
//! OOMScoreAdjust=-1000
//! [Unit]
//! RefuseManualStop=yes
//! OnFailure=…                      # kills the preserved unit, then "systemctl clean --what=fdstore" closes the rest
//! ```

mod begin;
pub mod collapse;
pub mod fdstore;
pub mod journal;
mod process;
pub mod ranges;
mod serve;
pub mod socket;

#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;

use crate::store::{Memory, WINDOW};
use fdstore::Store;
use serve::{Bell, Server};

/// What serving one unit takes on so many `processors`, beside the index of its memory, bytes: whoever fills in the background
/// brings a window, whoever serves faults what is around them.
pub fn memory(processors: u64) -> u64 {
    processors.saturating_mul(WINDOW).saturating_add(serve::SERVERS as u64 * ranges::NEIGHBOURHOOD)
}

/// Why a unit does not get its memory. Its tasks must not run on after any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed that should not.
    #[error("the pager failed: {0}")]
    Io(io::Error),
    /// CRIU did not do as it should.
    #[error("{0}")]
    Protocol(String),
    /// Memory is not to be had.
    #[error("memory of process {pid} is lost: {reason}")]
    Lost {
        /// Its PID in the images.
        pid: i32,
        /// Why.
        reason: String,
    },
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Faults that were served.
    pub faults: u64,
    /// Bytes that were put in, for faults and in the background.
    pub filled: u64,
    /// Huge pages that are where there were some.
    pub huge: usize,
}

/// Finds a process's memory by its PID in the images.
pub type Lookup<'a> = dyn Fn(i32) -> io::Result<Arc<dyn Memory>> + 'a;

/// How a unit is served.
pub struct Service<'a> {
    /// Where memory comes from.
    pub memory: &'a Lookup<'a>,
    /// Who keeps the descriptors should we die.
    pub store: &'a dyn Store,
    /// Kills every task of the unit before it returns. Called once, if at all, while all descriptors are open.
    pub lost: &'a (dyn Fn(&Error) + Sync),
    /// Threads that fill in the background; about as many as there are processors.
    pub fillers: usize,
    /// What was in huge pages when it was dumped, by PID and address.
    pub huge: Vec<(i32, Range<u64>)>,
}

impl Service<'_> {
    /// Ends the unit. Only then may what is kept be closed; should that fail, it is of dead processes.
    fn give_up<'n>(&self, error: &Error, names: impl IntoIterator<Item = &'n str>) {
        (self.lost)(error);
        if let Err(e) = fdstore::clear(self.store, names) {
            tracing::warn!("systemd keeps the descriptors of a dead unit: {e}");
        }
    }
}

/// The pager of one unit.
#[derive(Debug)]
pub struct Pager(Begin);

#[derive(Debug)]
enum Begin {
    Criu { listener: UnixListener, tasks: usize },
    Former(Vec<(String, OwnedFd)>),
}

impl Pager {
    /// Listens for CRIU in `work_dir`, which is to restore so many `tasks` ([`socket::count_tasks`]).
    ///
    /// # Errors
    /// As bind(2).
    pub fn listen(work_dir: &Path, tasks: usize) -> io::Result<Self> {
        Ok(Self(Begin::Criu { listener: socket::listen(work_dir)?, tasks }))
    }

    /// Goes on where a pager died, with what the store kept ([`crate::sys::fds::kept`]), if it kept anything.
    pub fn resume_from_fds(fds: Vec<(String, OwnedFd)>) -> Option<Self> {
        (!fds.is_empty()).then_some(Self(Begin::Former(fds)))
    }

    /// Brings the unit's memory. Returns when all is there and huge pages are made, or the unit is lost; nothing is kept in
    /// the store then.
    ///
    /// # Errors
    /// [`Error`]. The unit is dead, except where CRIU never came so far as to let its tasks run.
    pub fn run(self, service: &Service<'_>) -> Result<Report, Error> {
        let bell = Bell::new()?;
        let (connection, journal, processes) = match self.0 {
            Begin::Criu { listener, tasks } => {
                // No task runs before CRIU has told of all of them.
                let (connection, tasks) = socket::accept(&listener, tasks)?;
                let taken = begin::take_on(&connection, &tasks, service).inspect_err(|e| {
                    let names: Vec<_> = (0..tasks.len()).map(fdstore::process).collect();
                    service.give_up(e, names.iter().map(String::as_str));
                })?;
                let (journal, processes) = taken.with(tasks);
                (connection, journal, processes)
            }
            Begin::Former(fds) => {
                let names = || fds.iter().map(|(name, _)| name.as_str());
                let taken = begin::take_over(&fds, service).inspect_err(|e| service.give_up(e, names()))?;
                let Some(taken) = taken else {
                    fdstore::clear(service.store, names())?;
                    return Ok(Report::default());
                };
                taken
            }
        };
        let report = Server::new(bell, connection, journal, processes, service).run(service.fillers)?;
        Ok(Report { huge: collapse::all(&service.huge), ..report })
    }
}
