//! Every step of an update × everything that can go wrong there: no cell ends anywhere but on one of two kernels with its
//! services, or cold where their memory is truly gone.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kup::faults::STEPS;
use serde_json::Value;

use super::Scenario;
use super::afterwards::expect_no_traces;
use super::update::fill;
use crate::client::memcached::Keys;
use crate::client::{memcached, redis};
use crate::deb;
use crate::guest::{self, Service};
use crate::ready::{STAGED, units_but};
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

const fn scenario(name: &'static str, about: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, about, from: STAGED, all_only: true, run }
}

/// One scenario for each fault, so that two machines share the work.
pub const SCENARIOS: [Scenario; 7] = [
    scenario("faults-kill", "the worker is killed at every step of an update", |ctx| table(ctx, "kill")),
    scenario("faults-power", "the machine is reset at every step of an update", |ctx| table(ctx, "power")),
    scenario("faults-enospc", "no space left at every step of an update", |ctx| table(ctx, "enospc")),
    scenario("faults-eio", "an I/O error at every step of an update", |ctx| table(ctx, "eio")),
    scenario("faults-record", "a flipped bit in the record, and a reset, at every step", |ctx| table(ctx, "record")),
    scenario("faults-image", "damaged memory in the images at every step of an update", |ctx| table(ctx, "image")),
    scenario("faults-back", "what goes wrong on the way back from a kernel that panics, at every step of it", back),
];
/// The steps of a way back, and the faults that meet it there.
const BACK: [&str; 6] =
    ["netlock.begun", "restore.begun", "restore.frozen", "restore.resumed", "restore.released", "restore.ended"];
const BACK_FAULTS: [&str; 3] = ["kill", "enospc", "power"];

/// Environment variable with the steps that are wanted alone, for one who looks into a few of them.
const WANTED: &str = "KUP_LAB_STEPS";
const KEYS: Keys = Keys { count: 256, size: 8 << 10 };
const UNITS: [&str; 2] = ["memcached.service", "redis-server.service"];
/// Name of the saved state that cells of arming start from.
const SET_UP: &str = "faults";
/// Name of the saved state that all others start from: the update is armed, the moment of the switch is the administrator's.
const ARMED: &str = "faults-armed";
/// How long a cell may take: an update, a reset, a boot, and on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(900);
/// kup's units that a fault can happen in.
const WORKERS: [&str; 7] =
    ["kup-update", "kup-checkpoint", "kup-netlock", "kup-restore", "kup-assess", "kup-bless", "kup-settle"];

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// (a) On the old kernel, given up before the switch; every service as it was.
    Old,
    /// (b) On the new kernel with its services.
    New,
    /// (c) Back on the old kernel with its services.
    Back,
    /// A service lost its memory, and it is said.
    Cold,
}

fn table(ctx: &mut Ctx, fault: &str) -> Result<()> {
    let cells: Vec<_> = STEPS.iter().map(|step| (*step, fault)).collect();
    run(ctx, "", &cells, may_be_cold)
}

fn back(ctx: &mut Ctx) -> Result<()> {
    let cells: Vec<_> = BACK_FAULTS.iter().flat_map(|fault| BACK.map(|step| (step, *fault))).collect();
    run(ctx, "KernelArguments = \"init=/bin/false\"\n", &cells, may_be_cold_back)
}

/// Every cell, a step and what goes wrong there, on a machine with these settings.
fn run(ctx: &mut Ctx, settings: &str, cells: &[(&str, &str)], may_be_cold: fn(&str, &str) -> bool) -> Result<()> {
    let before = set_up(ctx, settings)?;
    ctx.vm.savevm(SET_UP)?;
    ctx.vm.ssh("kup update --yes --stage-only")?;
    ctx.vm.savevm(ARMED)?;
    let mut wrong = Vec::new();
    let wanted = std::env::var(WANTED).ok();
    for (step, fault) in cells {
        if wanted.as_ref().is_some_and(|wanted| !wanted.split(',').any(|one| one == *step)) {
            println!("   {fault:>7} at {step:<22} left out: {WANTED} does not name it");
            continue;
        }
        if *fault == "image" && !has_image(step) {
            println!("   {fault:>7} at {step:<22} cannot be: there is no image that would still be used");
            continue;
        }
        let (state, command) =
            if step.starts_with("arm.") { (SET_UP, "kup update --yes") } else { (ARMED, "systemctl kexec") };
        ctx.vm.loadvm(state)?;
        let verdict = cell(ctx, step, fault, command, &before).and_then(|end| {
            ensure!(end != End::Cold || may_be_cold(step, fault), "services started cold");
            Ok(end)
        });
        let line = match &verdict {
            Ok(end) => format!("{fault:>7} at {step:<22} {end:?}"),
            Err(e) => format!("{fault:>7} at {step:<22} WRONG: {e:#}"),
        };
        println!("   {line}");
        ctx.step(&line);
        if verdict.is_err() {
            let journal = ctx
                .vm
                .try_ssh("cat /etc/kup/record.json; journalctl -b -1 -u 'kup-*'; journalctl -b -u 'kup-*'", BOOT_LIMIT);
            ctx.step(&journal.map(|out| out.stdout).unwrap_or_default());
            wrong.push(line);
        }
    }
    ctx.vm.delvm(SET_UP)?;
    ctx.vm.delvm(ARMED)?;
    ensure!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// Is memory gone where `fault` happens at `step`?
fn may_be_cold(step: &str, fault: &str) -> bool {
    match fault {
        // What dies with the machine before there is an image, or after it was used, is gone as in any crash.
        "power" | "record" => {
            !(step.starts_with("netlock")
                || ["checkpoint.committed", "checkpoint.ended", "restore.begun", "restore.frozen"].contains(&step))
        }
        "image" => true,
        _ => false,
    }
}

/// The same on the way back: nothing is tried twice, and what runs goes on.
fn may_be_cold_back(step: &str, fault: &str) -> bool {
    match fault {
        "power" => step != "netlock.begun",
        _ => ["restore.begun", "restore.frozen"].contains(&step),
    }
}

/// Is there an image at `step` that is still to be used?
fn has_image(step: &str) -> bool {
    let at = |name: &str| STEPS.iter().position(|step| *step == name);
    (at("checkpoint.imaged")..=at("restore.frozen")).contains(&at(step))
}

/// A kup with faults, two services with something to lose.
fn set_up(ctx: &mut Ctx, settings: &str) -> Result<Vec<Service>> {
    deb::compile_with_faults()?;
    ctx.vm.put(&deb::binary_with_faults(), "/usr/libexec/kup/kup-worker")?;
    for worker in WORKERS {
        let text = b"[Service]\nEnvironmentFile=-/etc/kup/faults\n";
        ctx.vm.put_bytes(text, &format!("/etc/systemd/system/{worker}.service.d/50-faults.conf"))?;
    }
    let settings = format!("DeadmanSec = 300\nRestoreTimeoutSec = 60\nInitrd = \"stock\"\n{settings}");
    ctx.vm.put_bytes(settings.as_bytes(), "/etc/kup/kup.toml")?;
    let others = units_but(&UNITS);
    fill(ctx, KEYS)?;
    ctx.vm.ssh(&format!("kup release {0}; systemctl daemon-reload; systemctl stop {0}; sync", others))?;
    ctx.eventually(Duration::from_secs(60), |ctx| {
        ensure!(!ctx.vm.ssh_ok("pgrep -x kupd"), "kupd has not left yet");
        Ok(())
    })?;
    UNITS.iter().map(|unit| guest::service(&ctx.vm, unit)).collect()
}

fn cell(ctx: &mut Ctx, step: &str, fault: &str, command: &str, before: &[Service]) -> Result<End> {
    let boot = ctx.vm.boot_id()?;
    ctx.vm.put_bytes(format!("FAILPOINTS={step}=return({fault})\n").as_bytes(), "/etc/kup/faults")?;
    let console = ctx.vm.serial_log().len();
    let out = ctx.vm.try_ssh(command, Duration::from_secs(300));
    ctx.vm.drop_connection();
    let record = ctx.eventually(LIMIT, |ctx| ended(ctx, &boot))?;
    let happened = ctx.vm.serial_log()[console..].contains(&format!("kup: fault {fault} at {step}"));
    ensure!(happened, "the fault did not happen: {out:?}");
    // Whatever it ended as, the machine stays up.
    std::thread::sleep(Duration::from_secs(5));
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    expect_no_traces(ctx)?;
    let end = judge(ctx, &record, before)?;
    let noticed = fault != "image" || end == End::Cold || step == "restore.frozen";
    ensure!(noticed, "nobody noticed the damage: the update ended as {end:?}");
    Ok(end)
}

/// The record of an update that has ended, on a machine that has settled.
fn ended(ctx: &Ctx, boot: &str) -> Result<Value> {
    let out = ctx.vm.try_ssh("systemctl is-system-running; cat /etc/kup/record.json", Duration::from_secs(20))?;
    let (state, text) = out.stdout.split_once('\n').context("no answer")?;
    ensure!(["running", "degraded"].contains(&state.trim()), "the machine is {state}");
    let record: Value = serde_json::from_str(text)?;
    let ended =
        ["done", "aborted", "refused", "fell-back", "failed"].contains(&record["state"].as_str().unwrap_or_default());
    ensure!(ended && record["wiped"] == true, "the update is {}", record["state"]);
    let here = ctx.vm.boot_id()?;
    ensure!(record["state"] != "failed" || here != boot, "an update that failed before the switch");
    Ok(record)
}

fn judge(ctx: &mut Ctx, record: &Value, before: &[Service]) -> Result<End> {
    let (kernel, about) = (ctx.vm.uname()?, ctx.about().clone());
    let after: Vec<Service> = UNITS.iter().map(|unit| guest::service(&ctx.vm, unit)).collect::<Result<_>>()?;
    ensure!(after.iter().all(|service| service.active == "active"), "services are {after:?}");
    if after.iter().zip(before).any(|(is, was)| is.main_pid != was.main_pid) {
        let said = record["units"].as_object().is_some_and(|u| u.values().any(|u| u["state"]["cold"].is_object()));
        ensure!(said, "services started cold, and the record ({}) does not say so", record["state"]);
        return Ok(End::Cold);
    }
    ctx.vm.peer().enter(|| memcached::verify(KEYS).and_then(|()| redis::verify(KEYS)))??;
    match (record["state"].as_str().unwrap_or_default(), kernel == about.new_kernel) {
        ("aborted" | "refused", false) => Ok(End::Old),
        ("done" | "failed", true) => Ok(End::New),
        ("fell-back", false) => Ok(End::Back),
        (state, _) => bail!("an update that is {state}, on kernel {kernel}"),
    }
}
