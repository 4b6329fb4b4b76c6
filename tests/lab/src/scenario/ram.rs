//! Memory that stays in RAM over the switch, and is the system's again afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::afterwards::expect_nothing_left_of_update_to;
use super::fallback::{Start, Trouble};
use super::update::{Clients, expect_same, fill, observe, update_filled, verify};
use crate::client::memcached::Keys;
use crate::guest::{self, Service};
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update-ram",
    about: "services' memory stays in RAM over the kexec, is read from there, and is ordinary memory again afterwards",
    from: STAGED,
    all_only: false,
    run,
};

const SETTINGS: &str = "Storage = \"ram\"\n";
/// 64 MiB each.
const KEYS: Keys = Keys::mib(64);
/// What two kernels of one release may differ in, MiB.
const TOLERANCE: u64 = 8;

fn run(ctx: &mut Ctx) -> Result<()> {
    guest::settings(&ctx.vm, "ram", SETTINGS)?;
    let services = fill(ctx, KEYS)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    expect_check(ctx, &new, "stays in RAM over the switch")?;
    given_up(ctx)?;
    for (kernel, fallback) in [(new, "none"), (old, "disk")] {
        ctx.vm.put_bytes(format!("Fallback = \"{fallback}\"\n").as_bytes(), "/etc/kup/kup.toml")?;
        let memory = mem_total(ctx)?;
        let record = there(ctx, &services, &kernel, KEYS)?;
        expect_from(ctx, "RAM")?;
        expect_given_back(ctx, memory)?;
        // With a copy on the disk, all goes there before the switch.
        for (name, took) in guest::phases(&record) {
            ctx.figure(&format!("{name}, Fallback={fallback}"), took, "s");
        }
    }
    Ok(())
}

/// An update to `kernel`, which the services live through; gives its record.
fn there(ctx: &mut Ctx, services: &[Service], kernel: &str, keys: Keys) -> Result<Value> {
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, keys)?;
    let record = guest::update(ctx, &format!("--target {kernel}"))?;
    guest::expect_done(&record, &UNITS)?;
    ctx.expect_kernel(kernel)?;
    clients.finish(ctx)?;
    expect_same(ctx, services, &before)?;
    verify(ctx, keys)?;
    expect_nothing_left_of_update_to(ctx, kernel)?;
    Ok(record)
}

/// The check tells of every unit where its memory goes in an update to `kernel`.
fn expect_check(ctx: &mut Ctx, kernel: &str, says: &str) -> Result<()> {
    let check = ctx.vm.ssh(&format!("kup check --target {kernel}"))?;
    let limits = check.lines().find(|line| line.ends_with("[trial.limits]")).context("the limits are not told")?;
    ensure!(limits.contains("panic armed (reset after 10 s)"), "{limits}");
    let said = check.lines().filter(|line| line.contains(says) && line.ends_with("[memory.store]")).count();
    ensure!(said == UNITS.len(), "kup check says '{says}' of {said} units: {check}");
    Ok(())
}

/// An armed update holds memory; `kup abort` gives it back.
fn given_up(ctx: &mut Ctx) -> Result<()> {
    ctx.step("armed, and given up");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    let armed = ctx.vm.ssh("grep HugePages_Total /proc/meminfo; ls /run/kup/memory")?;
    ctx.step(&armed.replace('\n', " "));
    ensure!(armed.contains("pages"), "nothing is set aside: {armed}");
    ctx.vm.ssh("kup abort")?;
    let left = ctx.vm.ssh("ls -d /run/kup/memory* 2>/dev/null; grep -v '^0$' /proc/sys/vm/nr_hugepages; true")?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

fn mem_total(ctx: &Ctx) -> Result<u64> {
    let text = ctx.vm.ssh("awk '/^MemTotal:/ { print $2 }' /proc/meminfo")?;
    Ok(text.trim().parse::<u64>()? >> 10)
}

/// What the journal says of where memory was.
fn expect_from(ctx: &mut Ctx, store: &str) -> Result<()> {
    let told = ctx.vm.ssh("journalctl -b -o cat -t kup-worker | grep -E 'RAM|not as it was|all its memory'")?;
    told.lines().for_each(|line| ctx.step(line));
    for unit in UNITS {
        let says = format!("{unit} has all its memory:");
        let line = told.lines().find(|line| line.starts_with(&says)).context(says)?;
        ensure!(line.ends_with(&format!("from {store}")), "not from {store}: {line}");
    }
    ensure!(!told.contains("not as it was"), "it has changed on the way: {told}");
    Ok(())
}

/// The machine has the memory that it had, but for what the record says.
fn expect_given_back(ctx: &mut Ctx, before: u64) -> Result<()> {
    let record: Value = guest::record(&ctx.vm)?;
    let kept = record["ram"]["kept_back"].as_u64().context("the record does not say what was kept back")?;
    let status = ctx.vm.ssh("kup status")?;
    let says = format!("memory kept back until the next boot: {} MiB\n", kept.div_ceil(1 << 20));
    ensure!(kept == 0 || status.contains(&says), "kup status does not say '{}': {status}", says.trim());
    let kept = kept >> 20;
    let now = mem_total(ctx)?;
    ctx.figure("MemTotal before", before as f64, "MiB");
    ctx.figure("MemTotal after", now as f64, "MiB");
    ctx.figure("kept back until the next boot", kept as f64, "MiB");
    ensure!(now + kept + TOLERANCE >= before, "the machine had {before} MiB and has {now}, {kept} are kept back");
    let devices = ctx.vm.ssh("ls /dev/pmem* 2>/dev/null; true")?;
    ensure!(devices.trim().is_empty(), "devices are left: {devices}");
    Ok(())
}

/// Its entry in the registry.
pub const AUTO: Scenario = Scenario {
    name: "update-auto",
    about: "Storage=auto: services' memory stays in RAM where enough is free, and goes to the disk where it is not",
    from: STAGED,
    all_only: true,
    run: auto,
};

/// 128 MiB each: RAM would have to have some 600 MiB free for them.
const AUTO_KEYS: Keys = Keys::mib(128);
/// What is left free for it, MiB: enough for an update by the disk.
const LEFT: u64 = 400;

fn auto(ctx: &mut Ctx) -> Result<()> {
    guest::settings(&ctx.vm, "ram", "Storage = \"auto\"\n")?;
    let services = fill(ctx, AUTO_KEYS)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    ctx.step("there is memory enough");
    expect_check(ctx, &new, "stays in RAM over the switch")?;
    let memory = mem_total(ctx)?;
    let record = there(ctx, &services, &new, AUTO_KEYS)?;
    ensure!(record["ram"].is_object(), "the record does not say what went over the switch: {}", record["ram"]);
    expect_from(ctx, "RAM")?;
    expect_given_back(ctx, memory)?;
    ctx.step("there is too little");
    guest::hog(&ctx.vm, LEFT)?;
    expect_check(ctx, &old, "goes over the switch on disk: ")?;
    let record = there(ctx, &services, &old, AUTO_KEYS)?;
    ensure!(record["ram"].is_null(), "the record has memory that went over the switch: {}", record["ram"]);
    expect_from(ctx, "the disk")?;
    let why = "journalctl -o cat -t kup-worker | grep -F 'memory goes over the switch on disk, not in RAM: '";
    let why = ctx.vm.ssh(why).context("nobody says why it was not RAM")?;
    ctx.step(why.trim());
    Ok(())
}

/// Its entry in the registry.
pub const RESET: Scenario = Scenario {
    name: "fallback-ram",
    about: "what is in RAM is lost with a reset, or damaged: the services come from their copy on the disk",
    from: STAGED,
    all_only: true,
    run: reset,
};

/// Damages what came over the switch before anybody reads it.
const DAMAGE: &str = "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=kup.txn\nAfter=local-fs.target\n\
    Before=kup-restore.service kup-netlock.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/bin/sh -c 'modprobe -a nd_e820 nd_pmem; for d in /dev/pmem*; do \
    dd if=/dev/urandom of=$d bs=1M seek=2 count=32 conv=notrunc; done'\n[Install]\nWantedBy=sysinit.target\n";

fn reset(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    Trouble::Panic.prepare(ctx)?;
    guest::settings(&ctx.vm, "ram", SETTINGS)?;
    ctx.step("kup update, and a panic");
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    Trouble::Panic.happens(ctx)?;
    start.expect_back(ctx)?;
    ctx.step("kup update, and damage to what is in RAM");
    ctx.vm.ssh("rm /etc/kup/kup.toml")?;
    ctx.vm.put_bytes(DAMAGE.as_bytes(), "/etc/systemd/system/lab-damage.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-damage.service")?;
    update_filled(ctx, KEYS)?;
    let told = ctx.vm.ssh("journalctl -b -o cat -t kup-worker | grep -E 'not as it was|all its memory'")?;
    told.lines().for_each(|line| ctx.step(line));
    ensure!(told.contains("not as it was"), "nobody noticed the damage: {told}");
    Ok(())
}
