//! How willing the kernel is to kill each task when memory runs out (oom_score_adj, proc_pid_oom_score_adj(5)). CRIU leaves
//! its own value, or that of the task's parent, to a task that had 0; kup's is not to be killed at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use crate::inspect::UnitProcs;

/// What the unit's tasks have, where it is not 0.
pub fn look(procs: &UnitProcs) -> BTreeMap<i32, i32> {
    procs.processes.iter().map(|p| (p.pid, p.oom_score_adj)).filter(|(_, value)| *value != 0).collect()
}

/// Gives each of the tasks `pids` its value back.
pub fn restore(pids: &[i32], values: &BTreeMap<i32, i32>) {
    for pid in pids {
        let value = values.get(pid).copied().unwrap_or_default();
        match fs::write(format!("/proc/{pid}/oom_score_adj"), value.to_string()) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!("process {pid} cannot have the OOM score adjustment {value}: {e}");
            }
            _ => {}
        }
    }
}
