//! Is it one tree below its main process, with PIDs that can be had again?

use super::{Finding, View, label};
use crate::inspect::Process;
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let procs = view.procs;
    let labels = |pids: Vec<i32>| names(pids.into_iter().filter_map(|p| procs.process(p)).map(label));
    let mut found = Vec::new();
    let outside = procs.outside_tree();
    if !outside.is_empty() {
        let message = format!("{} do not descend from its main process", labels(outside));
        let fix = format!("if they are leftovers: {}", view.restart());
        found.push(Finding::blocker("process.outside-tree", message).fix(fix));
    }
    // PrivatePIDs= has its own answer: there systemd leads the session from outside the namespace.
    let private_pids = super::adjust::is_on(view.service("PrivatePIDs"));
    if let Some(main) = procs.main().filter(|m| m.sid != m.pid && !private_pids) {
        let message = format!("its main process {} is not the leader of its session", label(main));
        let fix = "run the program in the foreground with Type=exec or Type=notify: systemd makes it one";
        found.push(Finding::blocker("process.not-session-leader", message).fix(fix));
    }
    let low = low_pids(view);
    if !low.is_empty() {
        let message = format!("the next kernel's own threads may need the PIDs of {}", labels(low));
        found.push(Finding::blocker("process.low-pid", message).fix(view.restart()));
    }
    let traced: Vec<_> = procs.processes.iter().filter(|p| p.tracer != 0).map(|p| p.pid).collect();
    if !traced.is_empty() {
        let message = format!("{} is being traced by another process", labels(traced));
        found.push(Finding::blocker("process.traced", message).fix("end the debugger or strace"));
    }
    // A control group's cpuset is systemd's to set again; what sched_setaffinity(2) chose, CRIU does not store.
    let by_cgroup = !view.service("AllowedCPUs").is_empty();
    let pinned = |p: &&Process| !by_cgroup && p.cpus.values().any(|c| *c != view.host.cpus);
    let pinned: Vec<_> = procs.processes.iter().filter(pinned).map(|p| p.pid).collect();
    if !pinned.is_empty() {
        let message = format!("the choice of CPUs that {} made (CPU affinity) is not kept", labels(pinned));
        found.push(Finding::warning("process.affinity", message));
    }
    let below: Vec<_> = procs.processes.iter().filter(|p| !p.sub_cgroup.as_os_str().is_empty()).collect();
    if !below.is_empty() {
        let groups = names(below.iter().map(|p| p.sub_cgroup.display().to_string()));
        let message = format!("it divides its control group ({groups}), which would not be divided after a restore");
        found.push(Finding::blocker("cgroup.sub", message));
    }
    found
}

/// PIDs and thread ids that kernel threads of the next boot are likely to have. They all start before the floor is in
/// force; their number differs between kernels, hence the margin.
fn low_pids(view: &View) -> Vec<i32> {
    let limit = view.host.boot_threads * 5 / 4 + 64;
    let is_low = |pid: &i32| *pid <= limit;
    view.procs.processes.iter().filter(|p| is_low(&p.pid) || p.threads.iter().any(is_low)).map(|p| p.pid).collect()
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{MAIN, Unit};
    use super::*;

    fn with(process: Process) -> Unit {
        let mut unit = Unit::new();
        unit.procs.processes.push(Process { comm: "x".into(), ..process });
        unit
    }

    #[test]
    fn trees() {
        let child = |pid, ppid| Process { pid, ppid, ..Process::default() };
        assert!(with(child(40_002, MAIN)).ids(ask).is_empty());
        let mut deep = with(child(40_002, MAIN));
        deep.procs.processes.push(child(40_003, 40_002));
        assert!(deep.ids(ask).is_empty());
        assert_eq!(with(child(40_002, 1)).ids(ask), ["process.outside-tree"]);
        assert_eq!(with(Process { tracer: 7, ..child(40_002, MAIN) }).ids(ask), ["process.traced"]);
        let pinned = || Process { cpus: [(40_002, "1".into())].into(), ..child(40_002, MAIN) };
        assert_eq!(with(pinned()).ids(ask), ["process.affinity"]);
        assert!(with(pinned()).lines("AllowedCPUs=1\n").ids(ask).is_empty());
        let sub = Process { sub_cgroup: "workers".into(), ..child(40_002, MAIN) };
        assert_eq!(with(sub).ids(ask), ["cgroup.sub"]);
    }

    #[test]
    fn pids() {
        // 90 kernel threads, so up to 176.
        assert_eq!(with(Process { pid: 176, ppid: MAIN, ..Process::default() }).ids(ask), ["process.low-pid"]);
        assert!(with(Process { pid: 177, ppid: MAIN, ..Process::default() }).ids(ask).is_empty());
        let mut unit = Unit::new();
        unit.main().sid = 39_999;
        assert_eq!(unit.ids(ask), ["process.not-session-leader"]);
    }
}
