//! One process, from /proc/PID.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fds::{self, Fd};
use super::maps::{self, Mapping};
use super::{InspectError, Memory, Mounts, Namespace, read_text};
use crate::paths::Paths;

/// A process and what it holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Process {
    /// Process id.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// State letter of proc_pid_stat(5); `Z` for a zombie, which holds nothing any more.
    pub state: char,
    /// Name.
    pub comm: String,
    /// Working directory.
    pub cwd: PathBuf,
    /// Executable; without the ` (deleted)` that marks one that was replaced.
    pub exe: Option<PathBuf>,
    /// Start, in clock ticks after boot.
    pub starttime: u64,
    /// Thread ids, the process's own among them.
    pub threads: Vec<i32>,
    /// CPUs that each of its threads may run on, such as `0-3`.
    pub cpus: BTreeMap<i32, String>,
    /// OOM score adjustment, -1000 to 1000.
    pub oom_score_adj: i32,
    /// Real user id.
    pub uid: u32,
    /// Who traces it; 0 for nobody.
    pub tracer: i32,
    /// Its PID in each nested PID namespace, the host's first.
    pub ns_pids: Vec<i32>,
    /// Kinds of namespace that are not those of PID 1.
    pub namespaces: Vec<Namespace>,
    /// Its namespaces, as /proc/PID/ns names them: the same name is the same namespace.
    pub ns: BTreeMap<Namespace, String>,
    /// Its control group, relative to the unit's; empty for the unit's own.
    pub sub_cgroup: PathBuf,
    /// Open file descriptors.
    pub fds: Vec<Fd>,
    /// Memory mappings.
    pub mappings: Vec<Mapping>,
    /// Memory sizes.
    pub memory: Memory,
    /// Its mounts.
    pub mounts: Mounts,
}

impl Process {
    /// Whether it has ended and waits for its parent.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Reads `pid`; `host` are PID 1's namespaces.
    pub(super) fn read(paths: &Paths, pid: i32, host: &BTreeMap<Namespace, String>) -> Result<Self, InspectError> {
        let dir = paths.at(format!("/proc/{pid}"));
        let form = |name: &str| InspectError::Form { path: dir.join(name) };
        let mut process = stat(&read_text(&dir.join("stat"))?).ok_or_else(|| form("stat"))?;
        status(&read_text(&dir.join("status"))?, &mut process).ok_or_else(|| form("status"))?;
        let tasks = std::fs::read_dir(dir.join("task")).map_err(InspectError::read(dir.join("task")))?;
        process.threads = tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse().ok()).collect();
        process.threads.sort_unstable();
        for tid in &process.threads {
            // A thread may have ended meanwhile.
            let Ok(text) = read_text(&dir.join(format!("task/{tid}/status"))) else { continue };
            process.cpus.extend(field(&text, "Cpus_allowed_list").map(|cpus| (*tid, cpus.trim().to_string())));
        }
        let adjustment = read_text(&dir.join("oom_score_adj"))?;
        process.oom_score_adj = adjustment.trim().parse().map_err(|_| form("oom_score_adj"))?;
        if process.is_zombie() {
            return Ok(process);
        }
        let own = Namespace::of(paths, pid)?;
        process.namespaces =
            own.iter().filter(|(kind, ns)| host.get(kind) != Some(ns)).map(|(kind, _)| *kind).collect();
        process.ns = own;
        process.cwd = std::fs::read_link(dir.join("cwd")).map_err(InspectError::read(dir.join("cwd")))?;
        process.exe = std::fs::read_link(dir.join("exe")).ok().map(|p| {
            let text = p.to_string_lossy().into_owned();
            text.strip_suffix(fds::DELETED).map_or(p, PathBuf::from)
        });
        process.mounts = Mounts::parse(&read_text(&dir.join("mountinfo"))?);
        process.memory = Memory::parse(&read_text(&dir.join("smaps_rollup"))?);
        process.fds = fds::read(&dir)?;
        process.mappings = maps::read(&dir)?;
        Ok(process)
    }
}

/// proc_pid_stat(5). The name may hold blanks and parentheses: it ends at the last one.
pub fn stat(text: &str) -> Option<Process> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i)?.parse::<i32>().ok();
    Some(Process {
        pid: pid.trim().parse().ok()?,
        comm: comm.into(),
        state: fields.first()?.chars().next()?,
        ppid: number(1)?,
        pgid: number(2)?,
        sid: number(3)?,
        starttime: fields.get(19)?.parse().ok()?,
        ..Default::default()
    })
}

/// A line of proc_pid_status(5).
pub(super) fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))
}

/// Takes what is needed out of proc_pid_status(5).
pub fn status(text: &str, process: &mut Process) -> Option<()> {
    let field = |key| field(text, key);
    process.uid = field("Uid")?.split_ascii_whitespace().next()?.parse().ok()?;
    process.tracer = field("TracerPid")?.trim().parse().ok()?;
    process.ns_pids = field("NSpid").unwrap_or("").split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_ugly_name() {
        let text = "1234 (a) b (c)) S 1 1230 1229 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 98765 1024 55 184467 1 1 0";
        let p = stat(text).unwrap();
        assert_eq!((p.pid, p.ppid, p.pgid, p.sid, p.state, p.starttime), (1234, 1, 1230, 1229, 'S', 98765));
        assert_eq!(p.comm, "a) b (c)");
        assert!(stat("1234 (a) S 1").is_none());
    }

    #[test]
    fn status_fields() {
        let mut p = Process::default();
        let text = "Name:\tredis\nTracerPid:\t7\nUid:\t101\t102\t102\t102\nNSpid:\t900\t2\n";
        status(text, &mut p).unwrap();
        assert_eq!((p.uid, p.tracer, p.ns_pids), (101, 7, vec![900, 2]));
    }
}
