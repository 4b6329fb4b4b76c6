//! Does it have memory that needs something of the new boot, or cannot be dumped?

use super::adjust::{has_own, pending_ipc};
use super::{Finding, View};
use crate::inspect::{Memory, Namespace};

pub fn ask(view: &View) -> Vec<Finding> {
    let procs = view.procs;
    let mut found = Vec::new();
    let sysv = procs.mappings().any(|(_, m)| m.is_sysv());
    if sysv && !has_own(view, Namespace::Ipc) && !pending_ipc(view) {
        let message = "it uses System V shared memory in the machine's IPC namespace";
        let fix = format!("kup preserve --adjust private-ipc {0} && systemctl restart {0}", view.name());
        found.push(Finding::blocker("memory.sysv", message).fix(fix));
    }
    if procs.mappings().any(|(_, m)| m.name == "[uprobes]") {
        let message = "a tracer has put probes (uprobes) into its code";
        found.push(Finding::blocker("memory.uprobes", message).fix("end the tracer (perf, bpftrace) and restart it"));
    }
    // What is not there would not be in the image either.
    let missing = procs.missing().div_ceil(1 << 20);
    if missing > 0 {
        let message = format!("up to {missing} MiB of its memory are still on their way from the last update");
        let fix = format!("wait until 'systemctl status kup-pager@{}' shows that its pager has ended", view.unit.name);
        found.push(Finding::blocker("memory.missing", message).fix(fix));
    }
    let sum = |size: fn(&Memory) -> u64| procs.processes.iter().map(|p| size(&p.memory)).sum::<u64>();
    let huge = sum(|m| m.hugetlb) >> 20;
    if huge > 0 {
        let message = format!("it uses {huge} MiB of reserved huge pages, which the new kernel must reserve again");
        let fix = "set vm.nr_hugepages in /etc/sysctl.d, so that every boot reserves them";
        found.push(Finding::warning("memory.hugetlb", message).fix(fix));
    }
    // The rest is brought when it is asked for (CRIU's vma_entry_can_be_lazy()).
    let eager = sum(|m| m.locked.saturating_add(m.shmem).saturating_add(m.hugetlb)) >> 20;
    if eager > 0 {
        let message = format!("{eager} MiB of its memory, shared or locked, are brought back before it goes on");
        found.push(Finding::note("memory.eager", message));
    }
    let stored = sum(Memory::stored) >> 20;
    if let Some(why) = procs.stored_at_once().filter(|_| stored > 0) {
        let message = format!("its memory ({stored} MiB) is stored while it stands still, and not before: {why}");
        found.push(Finding::note("memory.at-once", message));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;
    use crate::inspect::{Mapping, Mounts};

    #[test]
    fn memory() {
        let sysv = Mapping { name: "/SYSV00000000".into(), deleted: true, shared: true, ..Mapping::default() };
        assert_eq!(Unit::new().map(sysv.clone()).ids(ask), ["memory.sysv"]);
        assert!(Unit::new().map(sysv.clone()).own(Namespace::Ipc).ids(ask).is_empty());
        assert!(Unit::new().map(sysv).lines("KUPAdjust=private-ipc\n").ids(ask).is_empty(), "pending");
        assert_eq!(
            Unit::new().map(Mapping { name: "[uprobes]".into(), ..Mapping::default() }).ids(ask),
            ["memory.uprobes"]
        );
        let mut unit = Unit::new();
        unit.main().memory = Memory { hugetlb: 4 << 20, locked: 2 << 20, ..Memory::default() };
        assert_eq!(unit.ids(ask), ["memory.hugetlb", "memory.eager"]);
        let mut unit = Unit::new();
        unit.main().memory = Memory { missing: 1, ..Memory::default() };
        assert_eq!(unit.ids(ask), ["memory.missing"]);
    }

    #[test]
    fn what_is_stored_at_once() {
        let small = || {
            let mut unit = Unit::new();
            unit.main().memory = Memory { anonymous: 3 << 20, ..Memory::default() };
            unit
        };
        assert!(small().ids(ask).is_empty());
        let aio = Mapping { name: "/[aio]".into(), deleted: true, shared: true, ..Mapping::default() };
        assert_eq!(small().map(aio).ids(ask), ["memory.at-once"]);
        let mut unit = small();
        let text =
            "24 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 24 0:40 / /proc rw - proc proc rw,hidepid=invisible,subset=pid\n";
        unit.main().mounts = Mounts::parse(text);
        assert_eq!(unit.ids(ask), ["memory.at-once"]);
    }
}
