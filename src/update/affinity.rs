//! The CPUs that threads chose to run on (sched_setaffinity(2)), which CRIU does not store: nginx pins its workers.

use std::collections::BTreeMap;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Gives each thread its CPUs back. One that cannot have them (the new kernel runs fewer) goes on where it may.
pub fn restore(cpus: &BTreeMap<i32, String>) {
    for (thread, list) in cpus {
        let set = parse(list);
        if let Err(e) = set.and_then(|set| sched_setaffinity(Pid::from_raw(*thread), &set)) {
            tracing::warn!("thread {thread} cannot have the CPUs {list}: {e}");
        }
    }
}

/// `0-3,6` (cpuset(7), "List format").
pub fn parse(list: &str) -> nix::Result<CpuSet> {
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |s: &str| s.trim().parse::<usize>().map_err(|_| nix::errno::Errno::EINVAL);
        for cpu in number(first)?..=number(last)? {
            set.set(cpu)?;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let cpus = |list: &str| -> Vec<usize> {
            let set = parse(list).unwrap();
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
        };
        assert_eq!(cpus("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpus("7"), [7]);
        for bad in ["", "a", "1-", "99999999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
