//! What follows from a unit's raw data, in the words that checkpointing uses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Fd, FdKind, InspectError, Mapping, Namespace, Process, UnitProcs, UnixKind, UnixSocket, copies, smaps};
use crate::paths::Paths;

/// Where systemd-journald listens for the standard output of services.
pub const JOURNAL_STDOUT: &str = "/run/systemd/journal/stdout";

/// One descriptor of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdRef {
    /// The process.
    pub pid: i32,
    /// The descriptor's number.
    pub fd: i32,
    /// open(2) flags.
    pub flags: i32,
}

/// A file that a process holds and that is on no mount of its own mount namespace: CRIU cannot find its path, and has to
/// be handed it from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// Mount id, of another mount namespace.
    pub mnt_id: i32,
    /// Inode.
    pub ino: u64,
    /// Path in that other mount namespace, for what PID 1 opened the host's.
    pub path: PathBuf,
    /// Whether that path is gone.
    pub deleted: bool,
    /// open(2) flags of the first descriptor; read-only for what is only mapped.
    pub flags: i32,
    /// All descriptors; empty for what is only mapped.
    pub users: Vec<FdRef>,
    /// A path in /proc that opens this very file.
    pub content: PathBuf,
}

impl ForeignFile {
    /// How CRIU names it in `--external file[KEY]`.
    pub fn key(&self) -> String {
        file_key(self.mnt_id, self.ino)
    }
}

/// A file or directory that is open or mapped although its name is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedFile {
    /// Mount id.
    pub mnt_id: i32,
    /// Inode.
    pub ino: u64,
    /// The name it had, as the process saw it; of a copy made at an earlier update, the name of what was copied.
    pub path: PathBuf,
    /// Links: 0 when it has no other name either.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether memory maps it.
    pub mapped: bool,
    /// Whether a mapping writes into it (shared and writable), or a descriptor may.
    pub writable: bool,
    /// Whether it is code: an executable mapping.
    pub executable: bool,
    /// Descriptors that refer to it.
    pub users: Vec<FdRef>,
    /// A path in /proc that opens this very file, to read its content from.
    pub content: PathBuf,
}

impl DeletedFile {
    /// How CRIU names it in `--external file[KEY]`.
    pub fn key(&self) -> String {
        file_key(self.mnt_id, self.ino)
    }
}

/// CRIU's `%x:%x` of mount id and inode.
pub fn file_key(mnt_id: i32, ino: u64) -> String {
    format!("{mnt_id:x}:{ino:x}")
}

impl UnitProcs {
    /// Its main process.
    pub fn main(&self) -> Option<&Process> {
        self.process(self.service.main_pid()?)
    }

    /// The process with this PID.
    pub fn process(&self, pid: i32) -> Option<&Process> {
        self.processes.iter().find(|p| p.pid == pid)
    }

    /// All PIDs.
    pub fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(|p| p.pid).collect()
    }

    /// PIDs that do not descend from the main process.
    pub fn outside_tree(&self) -> Vec<i32> {
        let Some(main) = self.service.main_pid() else { return self.pids() };
        let parents: BTreeMap<i32, i32> = self.processes.iter().map(|p| (p.pid, p.ppid)).collect();
        let descends = |pid: i32| {
            // Bounded, since PIDs that were reused between two reads could make a loop.
            let line = std::iter::successors(Some(pid), |p| parents.get(p).copied());
            line.take(parents.len() + 1).any(|p| p == main)
        };
        self.pids().into_iter().filter(|p| !descends(*p)).collect()
    }

    /// All descriptors of all processes.
    pub fn fds(&self) -> impl Iterator<Item = (&Process, &Fd)> {
        self.processes.iter().flat_map(|p| p.fds.iter().map(move |f| (p, f)))
    }

    /// All mappings of all processes.
    pub fn mappings(&self) -> impl Iterator<Item = (&Process, &Mapping)> {
        self.processes.iter().flat_map(|p| p.mappings.iter().map(move |m| (p, m)))
    }

    /// Why its memory cannot be stored in advance, while it runs; `None` where it can.
    pub fn stored_at_once(&self) -> Option<&'static str> {
        // What a device writes into memory by itself, the kernel does not count as changed.
        if self.mappings().any(|(_, m)| m.is_aio()) {
            return Some("the kernel writes into it by itself (Linux AIO)");
        }
        // CRIU, which works inside its sandbox, takes the time of each round from /proc/uptime.
        let hides_uptime = |p: &Process| {
            let proc = p.mounts.of_path(Path::new("/proc/uptime"));
            proc.is_some_and(|m| m.fs_type == "proc" && m.options.split(',').any(|o| o == "subset=pid"))
        };
        self.processes
            .iter()
            .any(hides_uptime)
            .then_some("ProcSubset=pid hides /proc/uptime, which CRIU needs for that")
    }

    /// Process, descriptor, inode and protocol of every socket.
    pub fn sockets(&self) -> impl Iterator<Item = (&Process, &Fd, u64, &str)> {
        self.fds().filter_map(|(p, f)| match &f.kind {
            FdKind::Socket { protocol } => Some((p, f, f.ino, protocol.as_str())),
            _ => None,
        })
    }

    /// The unix sockets that it holds, each once.
    pub fn unix_sockets(&self) -> Vec<&UnixSocket> {
        let inodes: BTreeSet<u64> = self.sockets().map(|(_, _, inode, _)| inode).collect();
        inodes.iter().filter_map(|i| self.unix.get(i)).collect()
    }

    /// Inodes of its stream sockets to journald: what CRIU calls `unix[INO]`.
    pub fn journal_streams(&self) -> Vec<u64> {
        let is_stream = |s: &&&UnixSocket| s.kind == UnixKind::Stream && self.peer_name(s) == Some(JOURNAL_STDOUT);
        self.unix_sockets().iter().filter(is_stream).map(|s| s.inode).collect()
    }

    /// The name of the socket at the other end.
    pub fn peer_name(&self, socket: &UnixSocket) -> Option<&str> {
        self.unix.get(&socket.peer?)?.name.as_deref()
    }

    /// Local addresses that its sockets are bound to: they must be there before it can be restored. None of a private
    /// network namespace, whose addresses are the unit's own business.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.inet.iter().filter_map(|s| s.bound_address()).collect()
    }

    /// Files on mounts that the process does not have; see [`ForeignFile`].
    pub fn foreign(&self) -> Vec<ForeignFile> {
        let mut found: BTreeMap<(i32, u64), ForeignFile> = BTreeMap::new();
        for (p, f) in self.fds() {
            let Some(path) = f.path() else { continue };
            if p.mounts.get(f.mnt_id).is_some() {
                continue;
            }
            let user = FdRef { pid: p.pid, fd: f.fd, flags: f.flags };
            let file = found.entry((f.mnt_id, f.ino)).or_insert_with(|| ForeignFile {
                mnt_id: f.mnt_id,
                ino: f.ino,
                path: path.into(),
                deleted: f.is_deleted(),
                flags: f.flags,
                users: Vec::new(),
                content: fd_path(p.pid, f.fd),
            });
            file.users.push(user);
        }
        for (p, m) in self.mappings() {
            let Some(file) = m.file.as_ref().filter(|_| m.is_file()) else { continue };
            if p.mounts.get(file.mnt_id).is_some() {
                continue;
            }
            found.entry((file.mnt_id, file.ino)).or_insert_with(|| ForeignFile {
                mnt_id: file.mnt_id,
                ino: file.ino,
                path: m.name.clone().into(),
                deleted: m.deleted,
                flags: 0,
                users: Vec::new(),
                content: map_path(p.pid, m),
            });
        }
        found.into_values().collect()
    }

    /// Files of POSIX shared memory (shm_overview(7)) that it maps or has open, by their names.
    pub fn posix_shared_memory(&self) -> BTreeSet<PathBuf> {
        let open = self.fds().filter(|(_, f)| !f.is_deleted() && !matches!(f.kind, FdKind::Directory { .. }));
        let open = open.filter_map(|(_, f)| f.path());
        let mapped = self.mappings().filter(|(_, m)| m.is_file() && !m.deleted).map(|(_, m)| Path::new(&m.name));
        open.chain(mapped).filter(|path| path.starts_with("/dev/shm")).map(PathBuf::from).collect()
    }

    /// Files and directories that have lost their name; see [`DeletedFile`].
    pub fn deleted(&self) -> Vec<DeletedFile> {
        let mut found: BTreeMap<(i32, u64), DeletedFile> = BTreeMap::new();
        for (p, f) in self.fds().filter(|(_, f)| f.is_deleted()) {
            let file = found.entry((f.mnt_id, f.ino)).or_insert_with(|| DeletedFile {
                mnt_id: f.mnt_id,
                ino: f.ino,
                path: copies::original(f.path().unwrap_or_else(|| "".as_ref())),
                nlink: f.nlink,
                size: f.size,
                directory: matches!(f.kind, FdKind::Directory { .. }),
                mapped: false,
                writable: false,
                executable: false,
                users: Vec::new(),
                content: fd_path(p.pid, f.fd),
            });
            file.writable |= f.flags & nix::libc::O_ACCMODE != nix::libc::O_RDONLY;
            file.users.push(FdRef { pid: p.pid, fd: f.fd, flags: f.flags });
        }
        for (p, m) in self.mappings().filter(|(_, m)| m.is_deleted_file()) {
            let Some(id) = &m.file else { continue };
            let file = found.entry((id.mnt_id, id.ino)).or_insert_with(|| DeletedFile {
                mnt_id: id.mnt_id,
                ino: id.ino,
                path: copies::original(m.name.as_ref()),
                nlink: id.nlink,
                size: id.size,
                directory: false,
                mapped: true,
                writable: false,
                executable: false,
                users: Vec::new(),
                content: map_path(p.pid, m),
            });
            file.mapped = true;
            file.writable |= m.shared && m.writable;
            file.executable |= m.executable;
        }
        found.into_values().collect()
    }

    /// Upper bound of what checkpoints of all its processes take, in bytes.
    pub fn image_size(&self) -> u64 {
        self.processes.iter().map(|p| p.memory.image_size()).sum()
    }

    /// Finds out what of its memory is still on its way from the last update. A program that handles page faults itself has
    /// the userfaultfd of its own for it.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn look_for_missing(&mut self, paths: &Paths) -> Result<(), InspectError> {
        let own = |fd: &Fd| matches!(&fd.kind, FdKind::Anon { name } if name == "userfaultfd");
        if self.fds().any(|(_, fd)| own(fd)) {
            return Ok(());
        }
        for process in self.processes.iter_mut().filter(|p| !p.is_zombie()) {
            let missing = smaps::missing(paths, process.pid);
            process.memory.missing = missing.map_err(InspectError::read(format!("/proc/{}/smaps", process.pid)))?;
        }
        Ok(())
    }

    /// What of its memory is missing, at most, bytes; as far as somebody has looked.
    pub fn missing(&self) -> u64 {
        self.processes.iter().map(|p| p.memory.missing).fold(0, u64::saturating_add)
    }

    /// One process of each network namespace among them.
    pub(super) fn one_pid_per_netns(&self) -> Vec<i32> {
        let mut seen = BTreeSet::new();
        let alive = self.processes.iter().filter(|p| !p.is_zombie());
        alive.filter(|p| seen.insert(p.ns.get(&Namespace::Net))).map(|p| p.pid).collect()
    }
}

fn fd_path(pid: i32, fd: i32) -> PathBuf {
    format!("/proc/{pid}/fd/{fd}").into()
}

fn map_path(pid: i32, m: &Mapping) -> PathBuf {
    format!("/proc/{pid}/map_files/{}", m.range()).into()
}
