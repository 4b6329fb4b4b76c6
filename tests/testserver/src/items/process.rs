//! What the kernel knows of the process: identity, confinement, limits, places. Compared with a snapshot.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{Mode, umask};

use super::Item;
use crate::{Config, raw};

/// Lines of /proc/self/status that stay the same as long as the process lives.
const STATUS: [&str; 22] = [
    "Name",
    "Umask",
    "Tgid",
    "Pid",
    "PPid",
    "Uid",
    "Gid",
    "Groups",
    "NStgid",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "THP_enabled",
    "CoreDumping",
];
/// Whole files of /proc/self.
const FILES: [&str; 8] =
    ["cmdline", "environ", "limits", "oom_score_adj", "cgroup", "comm", "coredump_filter", "personality"];
/// Links of /proc/self.
const LINKS: [&str; 3] = ["cwd", "exe", "root"];
/// Fields of /proc/self/stat, counted as in proc_pid_stat(5).
const STAT: [(&str, usize); 6] =
    [("process group", 5), ("session", 6), ("terminal", 7), ("priority", 18), ("nice", 19), ("policy", 41)];

/// Makes what is compared differ from what a fresh process would have.
pub fn prepare(config: &Config) -> Result<()> {
    umask(Mode::from_bits_truncate(0o027));
    std::env::set_current_dir(&config.state).with_context(|| format!("{}", config.state.display()))
}

/// What it was at the start.
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    pub fn take() -> Result<Self> {
        now().map(Self)
    }
}

fn now() -> Result<BTreeMap<String, String>> {
    let mut facts = BTreeMap::new();
    let status = fs::read_to_string("/proc/self/status")?;
    for (name, value) in status.lines().filter_map(|l| l.split_once(':')).filter(|(n, _)| STATUS.contains(n)) {
        facts.insert(name.into(), value.trim().into());
    }
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field, the name, may hold spaces; it ends at the last parenthesis.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    for (name, number) in STAT {
        facts.insert(name.into(), fields.get(number - 3).context("/proc/self/stat is too short")?.to_string());
    }
    // A file that this kernel does not have, or does not let us read, is compared as such.
    for name in FILES {
        let text = fs::read(format!("/proc/self/{name}")).map(|t| String::from_utf8_lossy(&t).replace('\0', " "));
        facts.insert(name.into(), text.unwrap_or_else(|e| format!("({e})")));
    }
    for name in LINKS {
        let target = fs::read_link(format!("/proc/self/{name}")).map(|t| t.display().to_string());
        facts.insert(name.into(), target.unwrap_or_else(|e| format!("({e})")));
    }
    facts.insert("mdwe".into(), raw::memory_deny_write_execute().to_string());
    Ok(facts)
}

impl Item for Snapshot {
    fn name(&self) -> &'static str {
        "process"
    }

    fn check(&mut self) -> Result<()> {
        let now = now()?;
        let differs = |name: &&String| self.0.get(*name) != now.get(*name);
        let mut names: Vec<_> = self.0.keys().chain(now.keys()).filter(differs).collect();
        names.dedup();
        let tell = |name: &&String| format!("{name} is {:?} instead of {:?}", now.get(*name), self.0.get(*name));
        let told: Vec<_> = names.iter().map(tell).collect();
        ensure!(told.is_empty(), "{}", told.join("; "));
        Ok(())
    }
}
