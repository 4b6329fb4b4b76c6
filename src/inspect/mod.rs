//! What a running unit looks like from outside: its processes, and what they hold. Read from /proc, the control group
//! file system, systemd and the kernel's socket tables; nothing is touched.
//!
//! The data types are plain, so that the questions of [`crate::preflight`] are tested on made-up units.

mod cgroup;
pub mod copies;
pub(crate) mod diag;
mod facts;
pub(crate) mod fds;
pub mod host;
pub(crate) mod inet;
pub(crate) mod maps;
mod memory;
mod mounts;
mod namespaces;
pub(crate) mod process;
pub mod smaps;
mod systemd;
pub(crate) mod unix;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

pub use facts::{DeletedFile, FdRef, ForeignFile, JOURNAL_STDOUT};
pub use fds::{Fd, FdKind};
pub use inet::{InetSocket, Protocol};
pub use maps::{FileId, Mapping};
pub use memory::Memory;
pub use mounts::{Mount, Mounts};
pub use namespaces::Namespace;
pub use process::Process;
pub use systemd::Service;
pub use unix::{UnixKind, UnixSocket};

use crate::paths::Paths;
use crate::unit::UnitName;

/// Why a unit could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file of /proc or of the control group file system could not be read.
    #[error("{path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file of /proc has a form that this version does not know.
    #[error("{path} is not of the form that proc(5) describes")]
    Form {
        /// Which file.
        path: PathBuf,
    },
    /// systemctl could not be asked.
    #[error("cannot ask systemd about {unit}: {reason}")]
    Systemd {
        /// Which unit.
        unit: UnitName,
        /// What went wrong.
        reason: String,
    },
    /// The kernel's table of unix sockets could not be read.
    #[error("cannot list unix sockets (sock_diag(7), kernel module unix_diag): {0}")]
    SockDiag(io::Error),
}

impl InspectError {
    fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        |cause| Self::Read { path: path.into(), cause }
    }

    /// Whether the process went away while it was being looked at.
    fn is_gone(&self) -> bool {
        match self {
            // ESRCH: /proc/PID/FILE of a process that ended after the file was opened.
            Self::Read { cause, .. } => {
                cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(nix::libc::ESRCH)
            }
            _ => false,
        }
    }
}

/// A unit and everything that runs in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UnitProcs {
    /// What systemd says about it.
    pub service: Service,
    /// All processes of its control group and the groups below it, by ascending PID; empty when it does not run.
    pub processes: Vec<Process>,
    /// Unix sockets by inode: all of the host's network namespace and of the unit's own ones.
    pub unix: BTreeMap<u64, UnixSocket>,
    /// Inodes of unix sockets that it holds and that belong to the host's network namespace, while it lives in one of its
    /// own: systemd made them before it moved the unit.
    pub from_host: BTreeSet<u64>,
    /// Internet sockets that its processes hold.
    pub inet: Vec<InetSocket>,
}

/// Looks at `unit` as it runs now.
///
/// A unit that does not run is no error: it has no processes.
///
/// # Errors
/// [`InspectError`]; a process that ends meanwhile is left out.
pub fn unit(unit: &UnitName) -> Result<UnitProcs, InspectError> {
    of(service(unit)?)
}

/// Asks systemd about a unit.
///
/// # Errors
/// When systemd cannot be asked.
pub fn service(unit: &UnitName) -> Result<Service, InspectError> {
    systemd::show(unit)
}

/// Looks at the processes of a unit that systemd has been asked about: it takes its time to answer.
///
/// # Errors
/// As [`unit`].
pub fn of(service: Service) -> Result<UnitProcs, InspectError> {
    let paths = Paths::host();
    let mut pids = match service.control_group() {
        Some(group) => cgroup::processes(&paths, group)?,
        None => BTreeMap::new(),
    };
    if let Some(main) = service.main_pid() {
        pids.entry(main).or_default();
    }
    let host = Namespace::of(&paths, 1)?;
    procs(&paths, service, pids, &host)
}

/// Looks at given processes as if they were a unit's; their namespaces are compared with the caller's.
///
/// # Errors
/// As [`unit`].
pub fn pids(pids: &[i32]) -> Result<UnitProcs, InspectError> {
    let paths = Paths::host();
    let own = Namespace::of(&paths, std::process::id().cast_signed())?;
    procs(&paths, Service::default(), pids.iter().map(|p| (*p, PathBuf::new())).collect(), &own)
}

fn procs(
    paths: &Paths,
    service: Service,
    pids: BTreeMap<i32, PathBuf>,
    host: &BTreeMap<Namespace, String>,
) -> Result<UnitProcs, InspectError> {
    let mut processes = Vec::new();
    for (pid, sub_cgroup) in pids {
        match Process::read(paths, pid, host) {
            Ok(process) => processes.push(Process { sub_cgroup, ..process }),
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    let mut found = UnitProcs { service, processes, ..Default::default() };
    let inodes: BTreeSet<u64> = found.sockets().map(|(_, _, inode, _)| inode).collect();
    if inodes.is_empty() {
        return Ok(found);
    }
    found.unix = unix::table(None)?;
    for pid in found.one_pid_per_netns() {
        let own = found.process(pid).is_some_and(|p| p.namespaces.contains(&Namespace::Net));
        let netns = own.then(|| paths.at(format!("/proc/{pid}/ns/net")));
        if own {
            let table = unix::table(netns.as_deref())?;
            let of_host = |i: &&u64| found.unix.contains_key(*i) && !table.contains_key(*i);
            found.from_host.extend(inodes.iter().filter(of_host));
            found.unix.extend(table);
        }
        let mut transforms = inet::transforms(netns.as_deref())?;
        for mut socket in inet::table(paths, pid)?.into_iter().filter(|s| inodes.contains(&s.inode)) {
            socket.transforms = transforms.remove(&socket.inode).unwrap_or_default();
            found.inet.push(socket);
        }
    }
    Ok(found)
}

/// Text of `path`; bytes that are no UTF-8 are replaced, since they only occur in names.
fn read_text(path: &Path) -> Result<String, InspectError> {
    let bytes = std::fs::read(path).map_err(InspectError::read(path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;

    /// The test's own process, with sockets, a deleted file, a memfd and a pipe.
    #[test]
    fn own_process() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut file = tempfile::tempfile_in(".").unwrap();
        file.write_all(b"ghost").unwrap();
        let me = std::process::id() as i32;
        let found = pids(&[me]).unwrap();
        let process = found.process(me).unwrap();
        assert_eq!(process.ppid, nix::unistd::getppid().as_raw());
        assert!(process.threads.contains(&me));
        assert_ne!(process.cpus[&me], "");
        assert!(process.memory.rss > 0);

        let fd = |n: i32| process.fds.iter().find(|f| f.fd == n).unwrap();
        let FdKind::Socket { protocol } = &fd(a.as_raw_fd()).kind else { panic!("{:?}", fd(a.as_raw_fd())) };
        assert!(protocol.starts_with("UNIX"), "{protocol}");
        let peer = found.unix[&fd(a.as_raw_fd()).ino].peer;
        assert_eq!(peer, Some(fd(b.as_raw_fd()).ino));

        let listener = found.inet.iter().find(|s| s.inode == fd(tcp.as_raw_fd()).ino).unwrap();
        assert_eq!(listener.local, tcp.local_addr().unwrap());
        assert!(listener.is_listening());

        let deleted = found.deleted();
        let ghost = deleted.iter().find(|d| d.ino == fd(file.as_raw_fd()).ino).unwrap();
        assert_eq!((ghost.nlink, ghost.size), (0, 5));
        assert_eq!(std::fs::read(&ghost.content).unwrap(), b"ghost");
        assert!(found.foreign().iter().all(|f| f.ino != ghost.ino), "{:?}", found.foreign());
    }
}
