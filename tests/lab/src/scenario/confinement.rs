//! A restored service is confined exactly as before: every field that tells, compared.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::Scenario;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::vm::Vm;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "confinement",
    about: "credentials, capabilities, seccomp, limits, namespaces, mounts and unit properties are as before",
    from: STAGED,
    all_only: false,
    run,
};

/// Lines of /proc/PID/status that are about what a process does, not about what it may.
const ACTIVITY: [&str; 12] = [
    "VmPeak",
    "VmSize",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmPTE",
    "VmSwap",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
    "State",
];
/// Lines that CRIU cannot keep and that restrict nothing: the data segment's bookkeeping, and which CPUs it last ran on.
/// Room for descriptors and signals in flight are the kernel's own accounts.
const BOOKKEEPING: [&str; 6] = ["VmData", "VmExe", "VmLib", "Mems_allowed_list", "FDSize", "SigQ"];
/// Default limits that the kernel reckons from its own size.
const OF_THE_KERNEL: [&str; 2] = ["LimitNPROC", "LimitSIGPENDING"];

/// Properties of systemd that are about this run of the unit or this boot.
const OF_THE_RUN: [&str; 16] = [
    "Timestamp",
    "InvocationID",
    "CPUUsage",
    "Memory",
    "IO",
    "IP",
    "Tasks",
    "ExecMain",
    "ExecStart",
    "StatusText",
    "WatchdogTimestamp",
    "NFileDescriptorStore",
    "EffectiveMemory",
    "EffectiveTasks",
    "ControlGroupId",
    "NeedDaemonReload",
];

/// What Debian's PostgreSQL has: a main process that is hard to kill, and others that are not.
const UNLIKE_OTHERS: &str = "echo -900 > /proc/$(systemctl show --value -p MainPID nginx)/oom_score_adj; \
                             echo 500 > /proc/$(systemctl show --value -p MainPID memcached)/oom_score_adj";

fn run(ctx: &mut Ctx) -> Result<()> {
    ctx.vm.ssh(UNLIKE_OTHERS)?;
    let before = look(&ctx.vm)?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    ctx.step("comparing every field");
    let after = look(&ctx.vm)?;
    let mut different = Vec::new();
    for (key, was) in &before {
        match after.get(key) {
            Some(is) if is == was => {}
            is => {
                let is = is.map(String::as_str).unwrap_or_default();
                different.push(format!("{key}: was {:?}, is {:?}", lacking(was, is), lacking(is, was)));
            }
        }
    }
    different.extend(after.keys().filter(|key| !before.contains_key(*key)).map(|key| format!("{key}: new")));
    ensure!(before.len() > 400, "only {} fields were compared", before.len());
    ctx.step(&format!("{} fields compared", before.len()));
    ensure!(different.is_empty(), "{} fields differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// Lines of `this` that `other` does not have, or all of it where only their order is different.
fn lacking(this: &str, other: &str) -> String {
    let lines: Vec<&str> = this.lines().filter(|line| !other.lines().any(|o| o == *line)).collect();
    if lines.is_empty() { this.to_owned() } else { lines.join("\n") }
}

/// Every field, by unit, process and name.
fn look(vm: &Vm) -> Result<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for unit in UNITS {
        for line in vm.ssh(&format!("systemctl show {unit}"))?.lines() {
            let Some((name, value)) = line.split_once('=') else { continue };
            if !OF_THE_RUN.iter().chain(&OF_THE_KERNEL).any(|n| name.contains(n)) {
                // Lists of units come in no order.
                let mut words: Vec<&str> = value.split(' ').collect();
                words.sort_unstable();
                fields.insert(format!("{unit} {name}"), words.join(" "));
            }
        }
        let group = vm.ssh(&format!("systemctl show --value -p ControlGroup {unit}"))?;
        for pid in vm.ssh(&format!("sort -n /sys/fs/cgroup{}/cgroup.procs", group.trim()))?.lines() {
            process(vm, unit, pid, &mut fields)?;
        }
    }
    Ok(fields)
}

fn process(vm: &Vm, unit: &str, pid: &str, fields: &mut BTreeMap<String, String>) -> Result<()> {
    let mut note = |name: &str, value: &str| {
        fields.insert(format!("{unit} {pid} {name}"), value.to_owned());
    };
    for line in vm.ssh(&format!("cat /proc/{pid}/status"))?.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if !ACTIVITY.contains(&name) && !BOOKKEEPING.contains(&name) {
            note(name, value.trim());
        }
    }
    for line in vm.ssh(&format!("cat /proc/{pid}/limits"))?.lines() {
        note(&format!("limit {}", line.get(..26).unwrap_or(line).trim()), limit_of(line));
    }
    for file in ["oom_score_adj", "cgroup", "loginuid", "personality", "coredump_filter", "timerslack_ns"] {
        note(file, vm.ssh(&format!("cat /proc/{pid}/{file}"))?.trim());
    }
    // Which kinds of namespace are its own; their numbers are new in every boot. CRIU adds a time namespace, in which the
    // clocks go on: the one difference that is meant.
    let own = "for n in cgroup ipc mnt net pid user uts; do \
               [ $(readlink /proc/PID/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done";
    note("own namespaces", &vm.ssh(&own.replace("PID", pid))?);
    note("scheduling", &vm.ssh(&format!("chrt -p {pid}; ionice -p {pid}; ps -o ni= -p {pid}"))?);
    // Sorted: the host's own mounts come in no order at boot. Credentials of other units come and go as these do. Mount ids, device numbers and boot-specific names of private directories aside.
    let mounts = format!(
        "awk '{{ print $4, $5, $6, $(NF-2) }}' /proc/{pid}/mountinfo | grep -v ' /run/credentials/.' | grep -v ' /run/user/' | sed -E 's/systemd-private-[0-9a-f]+/systemd-private-BOOT/; s/-[A-Za-z0-9]{{6}}(\\/|$| )/-RANDOM\\1/; s/[0-9]+$/N/' | sort"
    );
    note("mounts", &vm.ssh(&mounts)?);
    Ok(())
}

/// A line of /proc/PID/limits without what the kernel reckons from its own size.
fn limit_of(line: &str) -> &str {
    let own = ["Max processes", "Max pending signals"].iter().any(|n| line.starts_with(n));
    if own { "" } else { line.get(26..).unwrap_or_default().trim() }
}
