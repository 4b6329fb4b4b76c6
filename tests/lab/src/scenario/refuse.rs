//! What cannot be preserved is refused, by name, before anything is touched; and can be let go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use crate::guest;
use crate::ready::READY;
use crate::runner::context::Ctx;
use crate::vm::Vm;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "refuse",
    about: "one unit for each unsupported thing: check names it, update refuses and touches nothing, --allow-restart accepts",
    from: READY,
    all_only: false,
    run,
};

/// Does what its argument names.
const PROGRAM: &str = include_str!("refuse.py");
const LIMIT: Duration = Duration::from_secs(180);

/// A unit `refuse-NAME.service` that runs [`PROGRAM`] with NAME.
struct Odd {
    name: &'static str,
    /// The one blocker that it has.
    id: &'static str,
    /// What the message says of it.
    says: &'static str,
    /// Further lines of its `[Service]`.
    lines: &'static str,
}

const fn odd(name: &'static str, id: &'static str, says: &'static str, lines: &'static str) -> Odd {
    Odd { name, id, says, lines }
}

/// Sleeps, instead of the program.
macro_rules! sleep {
    ($lines:literal) => {
        concat!("Type=exec\nExecStart=\nExecStart=/usr/bin/sleep infinity\n", $lines)
    };
}

const ODDS: &[Odd] = &[
    odd("dbus", "sockets.dbus", "system_bus_socket", ""),
    odd("packet", "sockets.packet", "packet socket", ""),
    odd("mptcp", "sockets.family", "MPTCP", ""),
    odd("peer", "sockets.unix-peer", "/run/refuse-peer/socket", ""),
    odd(
        "activated",
        "sockets.activated",
        "refuse-activated.socket",
        "ExecStart=\nExecStart=/usr/local/bin/refuse idle\n",
    ),
    odd("io-uring", "files.io-uring", "io_uring", ""),
    odd("bpf", "files.bpf", "BPF", ""),
    odd("perf", "files.perf", "perf event", ""),
    odd("userfaultfd", "files.userfaultfd", "userfaultfd", ""),
    odd("pty", "files.device", "/dev/pts/", ""),
    odd("run-file", "files.volatile", "/run/refuse-file", ""),
    odd("tmp-file", "files.volatile", "/tmp/refuse-file", ""),
    odd("ghost", "limits.ghost", "/var/tmp/refuse-ghost", ""),
    odd("link", "files.deleted-link", "/dev/shm/refuse-a", ""),
    odd("sysv", "memory.sysv", "System V", ""),
    odd("outside", "process.outside-tree", "do not descend", ""),
    odd("traced", "process.traced", "traced", sleep!("")),
    odd("low-pid", "process.low-pid", "sleep[", sleep!("")),
    odd(
        "same-session",
        "process.not-session-leader",
        "sleep[",
        "Type=forking\nPIDFile=/run/refuse-same-session.pid\nExecStart=\n\
         ExecStart=/bin/sh -c 'sleep infinity & echo $! >/run/refuse-same-session.pid'\n",
    ),
    odd("user-namespace", "namespaces.user", "user namespace", ""),
    odd("pid-namespace", "namespaces.pid", "PID namespace", ""),
    odd("nested", "namespaces.nested", "mnt namespaces", ""),
    odd("subgroup", "cgroup.sub", "inner", "Delegate=yes\nNotifyAccess=all\n"),
    odd("private-users", "unit.adjust-pending", "PrivateUsers=no", sleep!("PrivateUsers=yes\n")),
    odd("private-pids", "unit.private-pids", "PrivatePIDs=yes", sleep!("PrivatePIDs=yes\n")),
    odd(
        "root-directory",
        "unit.root-directory",
        "RootDirectory=/srv/refuse",
        sleep!("RootDirectory=/srv/refuse\nBindReadOnlyPaths=/usr\n"),
    ),
    odd("bus-name", "unit.type", "D-Bus", sleep!("BusName=org.example.refuse\n")),
    odd(
        "no-main",
        "unit.no-main-process",
        "no main process",
        "Type=forking\nGuessMainPID=no\nExecStart=\nExecStart=/bin/sh -c 'sleep infinity & sleep infinity &'\n",
    ),
    odd(
        "ring-filter",
        "unit.adjust-refused",
        "allow-list",
        sleep!("SystemCallFilter=@system-service\n[X-KUP]\nKUPAdjust=no-io-uring\n"),
    ),
    odd(
        "changing",
        "unit.changing",
        "activating",
        "ExecStart=\nExecStart=/usr/bin/sleep infinity\nTimeoutStartSec=infinity\n",
    ),
];

/// Other units that some of [`ODDS`] need.
const HELPERS: [(&str, &str); 3] = [
    ("refuse-activated.socket", "[Socket]\nListenStream=127.0.0.1:9911\n"),
    (
        "refuse-peer-server.service",
        "[Service]\nType=notify\nRuntimeDirectory=refuse-peer\nExecStart=/usr/local/bin/refuse peer-server\n",
    ),
    ("refuse-tracer.service", "[Service]\nType=notify\nExecStart=/usr/local/bin/refuse tracer\n"),
];

fn run(ctx: &mut Ctx) -> Result<()> {
    start(ctx)?;
    let target = ctx.vm.uname()?;
    ctx.step("kup check");
    let answer = ctx.vm.try_ssh(&format!("kup check --json --target {target} {}", all()), LIMIT)?;
    ensure!(answer.code == 3, "kup check ended with {}: {}", answer.code, answer.stderr);
    expect_findings(&serde_json::from_str(&answer.stdout)?)?;
    ctx.vm.ssh(&format!("kup preserve {}", all()))?;
    let before = look(&ctx.vm)?;

    ctx.step("kup update refuses");
    expect_refused(ctx, &target, "", &ODDS.iter().map(unit).collect())?;
    let (last, others) = ODDS.split_last().context("there are units")?;
    expect_refused(ctx, &target, &allow(others), &BTreeSet::from([unit(last)]))?;
    expect_same(&before, &look(&ctx.vm)?)?;

    ctx.step("--allow-restart is accepted up to arming, and given up again");
    let command = format!("kup update --yes --stage-only --target {target} {}", allow(ODDS));
    let out = ctx.vm.try_ssh(&command, LIMIT)?;
    ensure!(out.ok(), "kup update --allow-restart ended with {}: {} {}", out.code, out.stdout, out.stderr);
    let record = guest::record(&ctx.vm)?;
    ensure!(record["state"] == "armed", "the update is {}", record["state"]);
    for odd in ODDS {
        let state = record["units"][unit(odd)]["state"].to_string();
        ensure!(state.contains("accepted") && state.contains(odd.says), "{} is {state}", unit(odd));
    }
    ctx.vm.ssh("grep -qx 1 /sys/kernel/kexec_loaded && kup abort")?;
    expect_same(&before, &look(&ctx.vm)?)?;
    ensure!(guest::state(&ctx.vm)? == "aborted", "the update is {}", guest::state(&ctx.vm)?);
    Ok(())
}

fn unit(odd: &Odd) -> String {
    format!("refuse-{}.service", odd.name)
}

fn all() -> String {
    ODDS.iter().map(unit).collect::<Vec<_>>().join(" ")
}

fn allow(odds: &[Odd]) -> String {
    odds.iter().map(|odd| format!("--allow-restart {}", unit(odd))).collect::<Vec<_>>().join(" ")
}

/// Installs and starts all units.
fn start(ctx: &mut Ctx) -> Result<()> {
    ctx.step(&format!("starting {} units", ODDS.len()));
    ctx.vm.put_bytes(PROGRAM.as_bytes(), "/usr/local/bin/refuse")?;
    for odd in ODDS {
        let head = format!("[Service]\nType=notify\nExecStart=/usr/local/bin/refuse {}\n", odd.name);
        ctx.vm.put_bytes((head + odd.lines).as_bytes(), &format!("/etc/systemd/system/{}", unit(odd)))?;
    }
    for (name, text) in HELPERS {
        ctx.vm.put_bytes(text.as_bytes(), &format!("/etc/systemd/system/{name}"))?;
    }
    // What an image of a merged /usr has beside it.
    ctx.vm.ssh("mkdir -p /srv/refuse/usr && cd /srv/refuse && ln -s usr/bin usr/sbin usr/lib usr/lib64 .")?;
    ctx.vm.ssh("chmod 755 /usr/local/bin/refuse && systemctl daemon-reload")?;
    ctx.vm.ssh("systemctl start refuse-activated.socket refuse-peer-server.service")?;
    let late = ["low-pid", "changing"];
    let first: Vec<_> = ODDS.iter().filter(|odd| !late.contains(&odd.name)).map(unit).collect();
    ctx.vm.ssh(&format!("systemctl start {}", first.join(" ")))?;
    // Low as after a boot in which nothing had raised the numbers yet.
    let low = "last=$(cat /proc/sys/kernel/ns_last_pid); echo 20 >/proc/sys/kernel/ns_last_pid; \
               systemctl start refuse-low-pid.service; echo $last >/proc/sys/kernel/ns_last_pid";
    ctx.vm.ssh(low)?;
    ctx.vm.ssh("systemctl start refuse-tracer.service && systemctl start --no-block refuse-changing.service").map(drop)
}

/// Every unit has the blocker that the table says, and no other; the machine has none.
fn expect_findings(check: &Value) -> Result<()> {
    let mut found: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for finding in check["findings"].as_array().context("no findings")? {
        if finding["severity"] == "blocker" {
            let text = |key: &str| finding[key].as_str().unwrap_or_default();
            found.entry(text("unit")).or_default().push((text("id"), text("message")));
        }
    }
    let mut wrong: Vec<String> = Vec::new();
    for odd in ODDS {
        let unit = unit(odd);
        match found.remove(unit.as_str()).as_deref() {
            Some([(id, message)]) if *id == odd.id && message.contains(odd.says) => {}
            other => wrong.push(format!("{unit}: expected {} ({}), found {other:?}", odd.id, odd.says)),
        }
    }
    wrong.extend(found.iter().map(|other| format!("{other:?}")));
    ensure!(wrong.is_empty(), "{} findings are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// `kup update` exits with 3 and names these units, and no other.
fn expect_refused(ctx: &mut Ctx, target: &str, options: &str, units: &BTreeSet<String>) -> Result<()> {
    let out = ctx.vm.try_ssh(&format!("kup update --yes --target {target} {options}"), LIMIT)?;
    ensure!(out.code == 3, "kup update ended with {}: {} {}", out.code, out.stdout, out.stderr);
    let record = guest::record(&ctx.vm)?;
    ensure!(record["state"] == "refused", "the update is {}", record["state"]);
    let reason = record["reason"].as_str().unwrap_or_default();
    for unit in ODDS.iter().map(unit) {
        let named = reason.contains(&format!("{unit}: "));
        ensure!(named == units.contains(&unit), "{unit} is {}named: {reason}", if named { "" } else { "not " });
    }
    ensure!(ctx.vm.try_ssh("kup status", LIMIT)?.code == 3, "kup status does not tell that it was refused");
    let failed = ctx.vm.ssh("systemctl list-units --failed --no-legend --plain 'kup*'")?;
    ensure!(failed.trim().is_empty(), "a refusal leaves failed units: {failed}");
    Ok(())
}

/// Everything that an update changes on its way, and who runs.
fn look(vm: &Vm) -> Result<Vec<(&'static str, String)>> {
    let commands = [
        ("the kernel for kexec", "cat /sys/kernel/kexec_loaded"),
        ("GRUB's settings", "md5sum /etc/default/grub /etc/default/grub.d/* /boot/grub/grubenv"),
        ("GRUB's menu", "md5sum /boot/grub/grub.cfg; grep 'set default=' /boot/grub/grub.cfg"),
        ("systemd's transient files", "find /run/systemd -name '*kup*' | sort"),
        ("what systemd has queued", "systemctl list-jobs --no-legend --plain | grep -v refuse-changing || true"),
        ("network rules", "nft list ruleset"),
        ("images", "find /var/lib/kup/images -mindepth 1 2>/dev/null || true"),
        ("kup-checkpoint.service", "systemctl is-active kup-checkpoint.service || true"),
        ("processes", "systemctl show -p Id,MainPID,InvocationID,ActiveState 'refuse-*.service' nginx redis-server"),
    ];
    commands.into_iter().map(|(what, command)| Ok((what, vm.ssh(command)?))).collect()
}

fn expect_same(before: &[(&str, String)], after: &[(&str, String)]) -> Result<()> {
    for ((what, was), (_, is)) in before.iter().zip(after) {
        let (was, is) = (parts(was), parts(is));
        let gone: Vec<_> = was.difference(&is).collect();
        let new: Vec<_> = is.difference(&was).collect();
        ensure!(was == is, "{what} changed: gone {gone:?}, new {new:?}");
    }
    Ok(())
}

/// What an answer lists, without its order: PID 1 keeps its units in a hash table, which it orders anew as it grows.
fn parts(answer: &str) -> BTreeSet<&str> {
    answer.trim().split("\n\n").collect()
}
