//! `KUPFallback=none`: a unit that asks for no way back starts cold where one is taken; the others do not mind.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{KEYS, Scenario, Start, Trouble, expect_nothing_left_but_the_pin, scenario};
use crate::client::{Pulse, memcached, redis, testserver};
use crate::guest;
use crate::ready::UNITS;
use crate::runner::context::Ctx;
use crate::scenario::update::expect_redis_and_testserver;

/// Its entry in the registry.
pub const SCENARIO: Scenario = scenario(
    "fallback-none",
    "the new kernel panics: a unit with KUPFallback=none starts cold on the old one, the others have their state",
    run,
);

/// Who asks for no way back.
const COLD: &str = "memcached.service";
const LIMIT: Duration = Duration::from_secs(300);

fn run(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    let run_id = ctx.vm.peer().enter(redis::run_id)??;
    ctx.vm.ssh(&format!("kup preserve {COLD} --fallback none"))?;
    Trouble::Panic.prepare(ctx)?;
    let peer = ctx.vm.peer();
    let pulses = [
        Pulse::start("redis", peer, move || redis::Client::connect(KEYS))?,
        Pulse::start("test server", peer, testserver::Client::connect)?,
    ];
    ctx.step("kup update");
    // The shutdown may cut the connection before kup has ended.
    let _ = ctx.vm.try_ssh("kup update --yes", LIMIT);
    Trouble::Panic.happens(ctx)?;
    let record = start.wait_back(ctx)?;
    Trouble::Panic.expect_reason(&record)?;
    ctx.step("the others are as they were");
    for (unit, was) in UNITS.iter().zip(&start.services).filter(|(unit, _)| **unit != COLD) {
        let (is, state) = (guest::service(&ctx.vm, unit)?, &record["units"][unit]["state"]);
        ensure!(is == *was && state == "resumed", "{unit} was {was:?} and is {is:?}, {state}");
    }
    for pulse in pulses {
        pulse.stop()?;
    }
    expect_redis_and_testserver(ctx, KEYS, &run_id)?;
    expect_cold(ctx, &record)?;
    expect_nothing_left_but_the_pin(ctx)?;
    start.expect_no_second_attempt(ctx)
}

/// It runs as a fresh one, without a key, and everything says so.
fn expect_cold(ctx: &mut Ctx, record: &Value) -> Result<()> {
    ctx.step("the one that asks for no way back started cold");
    let unit = &record["units"][COLD];
    let why = unit["state"]["cold"]["reason"].as_str().unwrap_or_default();
    ensure!(unit["fallback"] == "none" && why.contains("KUPFallback=none"), "{COLD} is {}", unit["state"]);
    ctx.eventually(LIMIT, |ctx| {
        let is = guest::service(&ctx.vm, COLD)?;
        let name = ctx.vm.ssh(&format!("cat /proc/{}/comm", is.main_pid))?;
        ensure!(is.active == "active" && name.trim() == "memcached", "{COLD} is {is:?}, {name}");
        ensure!(Some(u64::from(is.main_pid)) != unit["main_pid"].as_u64(), "{COLD} has its old PID");
        Ok(())
    })?;
    guest::listens(&ctx.vm)?;
    let there = ctx.vm.peer().enter(|| memcached::Cache::connect(KEYS, LIMIT)?.get(0))??;
    ensure!(!there, "memcached has a key from before");
    let status = ctx.vm.try_ssh("kup status", LIMIT)?;
    let told = |line: &str| line.contains(COLD) && line.contains("cold") && line.contains("KUPFallback=none");
    ensure!(
        status.code == 7 && status.stdout.contains("fell-back") && status.stdout.lines().any(told),
        "kup status ({}): {}",
        status.code,
        status.stdout
    );
    Ok(())
}
