//! systemd's file descriptor store (sd_notify(3), FDSTORE=1): it keeps descriptors of a service that died, and gives them to
//! the one that it starts in its place.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libsystemd::daemon::{NotifyState, notify, notify_with_fds};

/// Name of the connection to CRIU.
pub const CONNECTION: &str = "criu";
/// Name of the journal.
pub const JOURNAL: &str = "journal";

/// Name of a process's userfaultfd.
pub fn process(number: usize) -> String {
    format!("process-{number}")
}

/// Whoever keeps descriptors for a restarted pager.
pub trait Store: Send + Sync {
    /// Keeps a duplicate of `fd` as `name`.
    ///
    /// # Errors
    /// When it could not be told.
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Closes what is kept as `name`.
    ///
    /// # Errors
    /// When it could not be told.
    fn release(&self, name: &str) -> io::Result<()>;
}

/// Has nothing kept any more: the unit has its memory, or is dead. `names` are those of its processes; what is not kept, or
/// named twice, does not matter.
///
/// The journal goes last: it says whether a successor has anything to do.
///
/// # Errors
/// When it could not be told.
pub fn clear<'a>(store: &dyn Store, names: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    for name in names.into_iter().filter(|n| *n != JOURNAL).chain([CONNECTION, JOURNAL]) {
        store.release(name)?;
    }
    Ok(())
}

/// systemd; nobody where it did not start us ($NOTIFY_SOCKET is not set).
#[derive(Debug, Clone, Copy, Default)]
pub struct Systemd;

impl Store for Systemd {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        // FDPOLL=0: systemd would throw out a connection that CRIU has closed, which is what CRIU does in the end.
        let state = [NotifyState::Fdstore, NotifyState::Fdname(name.into()), NotifyState::FdpollDisable];
        notify_with_fds(false, &state, &[fd.as_raw_fd()]).map(drop).map_err(io::Error::other)
    }

    fn release(&self, name: &str) -> io::Result<()> {
        let state = [NotifyState::FdstoreRemove, NotifyState::Fdname(name.into())];
        notify(false, &state).map(drop).map_err(io::Error::other)
    }
}
