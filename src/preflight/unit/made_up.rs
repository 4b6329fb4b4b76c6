//! Units that do not exist, for the tests of the questions.

use std::path::Path;

use super::{Finding, Host, View};
use crate::inspect::{Fd, FdKind, Mapping, Mounts, Namespace, Process, Service, UnitProcs, UnixKind, UnixSocket};
use crate::paths::Paths;
use crate::unit::{PreserveSpec, load};

/// PID of the main process.
pub const MAIN: i32 = 40_000;
/// Mount ids of [`Unit::new`]: `/`, `/run`, a read-only `/usr`, and a `/tmp` that is a tmpfs.
pub const ROOT: i32 = 24;
pub const RUN: i32 = 25;
pub const USR: i32 = 26;

/// A unit and its machine; a plain daemon that has nothing in its way.
pub struct Unit {
    pub text: String,
    pub service: String,
    pub procs: UnitProcs,
    pub host: Host,
}

impl Unit {
    pub fn new() -> Self {
        let mounts = Mounts::parse(
            "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n25 24 0:24 / /run rw - tmpfs tmpfs rw\n\
             26 24 8:2 / /usr ro - ext4 /dev/sda2 rw\n27 24 0:25 / /tmp rw - tmpfs tmpfs rw\n",
        );
        let main = Process {
            pid: MAIN,
            ppid: 1,
            pgid: MAIN,
            sid: MAIN,
            state: 'S',
            comm: "daemon".into(),
            cwd: "/".into(),
            threads: vec![MAIN],
            ns_pids: vec![MAIN],
            mounts: mounts.clone(),
            ..Process::default()
        };
        let procs = UnitProcs { processes: vec![main], ..UnitProcs::default() };
        let host = Host { boot_threads: 90, mounts, ghost_limit: 1 << 20, ..Host::default() };
        let service = format!("LoadState=loaded\nActiveState=active\nSubState=running\nMainPID={MAIN}\n");
        Self { text: "ExecStart=/usr/bin/daemon\n".into(), service, procs, host }
    }

    /// With more lines in `[Service]`.
    pub fn lines(mut self, lines: &str) -> Self {
        self.text += lines;
        self
    }

    /// With more of what `systemctl show` says.
    pub fn shows(mut self, lines: &str) -> Self {
        self.service += lines;
        self
    }

    pub fn main(&mut self) -> &mut Process {
        &mut self.procs.processes[0]
    }

    /// With a namespace of its own.
    pub fn own(mut self, kind: Namespace) -> Self {
        self.main().namespaces.push(kind);
        self
    }

    /// With an open descriptor.
    pub fn fd(mut self, kind: FdKind, mnt_id: i32) -> Self {
        let fd = self.main().fds.len() as i32;
        let ino = 1000 + fd as u64;
        self.main().fds.push(Fd { fd, kind, flags: 0, mnt_id, ino, dev: 1, nlink: 1, size: 10 });
        self
    }

    /// With an open file.
    pub fn file(self, path: &str, mnt_id: i32) -> Self {
        self.fd(FdKind::File { path: path.into(), deleted: false }, mnt_id)
    }

    /// With a socket of a protocol; its inode is 1000 + the number of its descriptor.
    pub fn socket(self, protocol: &str) -> Self {
        self.fd(FdKind::Socket { protocol: protocol.into() }, 8)
    }

    /// With a unix socket that is connected to one called `peer`, outside the unit.
    pub fn unix(mut self, kind: UnixKind, peer: Option<&str>) -> Self {
        self = self.socket("UNIX");
        let inode = 999 + self.main().fds.len() as u64;
        let mine = UnixSocket { inode, kind, listening: false, name: None, peer: Some(inode + 5000) };
        let theirs = UnixSocket { inode: inode + 5000, name: peer.map(Into::into), peer: Some(inode), ..mine.clone() };
        self.procs.unix.extend([mine, theirs].map(|s| (s.inode, s)));
        self
    }

    pub fn map(mut self, mapping: Mapping) -> Self {
        self.main().mappings.push(mapping);
        self
    }

    /// What one question, or all of them, find.
    pub fn ask(mut self, question: fn(&View) -> Vec<Finding>) -> Vec<Finding> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let file = paths.at("/etc/systemd/system/a.service");
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(file, format!("[Service]\n{}", self.text)).unwrap();
        let unit = load(&paths, &"a.service".parse().unwrap()).unwrap();
        let spec = PreserveSpec::of(&unit).unwrap();
        self.procs.service = Service::parse(&self.service);
        question(&View { unit: &unit, spec: &spec, procs: &self.procs, host: &self.host })
    }

    /// The ids that one question finds.
    pub fn ids(self, question: fn(&View) -> Vec<Finding>) -> Vec<String> {
        self.ask(question).into_iter().map(|f| f.id).collect()
    }
}

#[test]
fn a_plain_daemon_is_fine() {
    let unit = Unit::new().file("/var/lib/a/db", ROOT).socket("TCP").unix(UnixKind::Stream, Some(JOURNAL_STDOUT));
    assert_eq!(unit.ask(super::check), []);
}

use crate::inspect::JOURNAL_STDOUT;
