//! Memory that is not back yet: its pager dies while a unit waits for it, once, and then whenever it is started.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::update_filled;
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "pager",
    about: "the pager is killed while a service waits for its memory: once, and it goes on; always, and the service is killed",
    from: STAGED,
    all_only: true,
    run,
};

/// Enough that it takes a while.
const KEYS: Keys = Keys { count: 32 << 10, size: 8 << 10 };
const UNIT: &str = "memcached.service";

/// Waits for the moment when tasks run, then kills memcached's pager so many times by this signal.
fn killer(times: u32, signal: &str) -> String {
    format!(
        "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=kup.txn\nBefore=kup-restore.service\n\
         [Service]\nExecStart=/bin/sh -c 'until grep -q \\'\"resumed\"\\' /etc/kup/record.json; do sleep 0.02; done; \
         for n in $(seq {times}); do until pkill -{signal} -f \"kup-worker pager memcache[d]\"; do sleep 0.01; \
         systemctl -q is-active kup-assess.service && exit; done; echo killed; done'\n\
         [Install]\nWantedBy=kup-restore.service\n"
    )
}

fn run(ctx: &mut Ctx) -> Result<()> {
    once(ctx)?;
    always(ctx)
}

fn install(ctx: &mut Ctx, times: u32, signal: &str) -> Result<()> {
    ctx.vm.put_bytes(killer(times, signal).as_bytes(), "/etc/systemd/system/lab-killer.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-killer.service").map(drop)
}

fn killed(ctx: &mut Ctx) -> Result<usize> {
    Ok(ctx.vm.ssh("journalctl -b -u lab-killer.service -o cat | grep -cx killed || true")?.trim().parse()?)
}

fn once(ctx: &mut Ctx) -> Result<()> {
    ctx.step("it is killed once, as somebody would who wants it to end");
    install(ctx, 1, "TERM")?;
    update_filled(ctx, KEYS)?;
    ensure!(killed(ctx)? == 1, "it was not killed");
    let restarts = ctx.vm.ssh("journalctl -b -u kup-pager@memcached.service -o cat")?;
    ensure!(restarts.contains("Scheduled restart job"), "it was not started again: {restarts}");
    let stop = ctx.vm.try_ssh("systemctl stop kup-pager@memcached.service", BOOT_LIMIT)?;
    ensure!(!stop.ok() && stop.stderr.contains("refused"), "it can be stopped: {} {}", stop.code, stop.stderr);
    expect_no_leftovers(ctx)
}

/// The unit is ended before it reads zeros; that is a unit that did not stay up, so that the update is taken back.
fn always(ctx: &mut Ctx) -> Result<()> {
    ctx.step("it is killed whenever it is started");
    install(ctx, 1000, "KILL")?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    let boot = ctx.vm.boot_id()?;
    let _ = ctx.vm.try_ssh(&format!("kup update --yes --target {old}"), Duration::from_secs(300));
    ctx.vm.wait_new_boot(&boot, BOOT_LIMIT)?;
    let record = ctx.eventually(BOOT_LIMIT, |ctx| {
        let record = guest::record(&ctx.vm)?;
        ensure!(record["reverses"].is_string() && record["wiped"] == true, "no update was taken back");
        Ok(record)
    })?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    ctx.expect_kernel(&new)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(UNIT), "the reason is {reason:?}");
    ensure!(guest::service(&ctx.vm, UNIT)?.active == "active", "{UNIT} does not run");
    let said = ctx.vm.ssh("journalctl -u 'kup-lost@memcached.service' -u 'kup-pager@memcached.service' -o cat")?;
    ensure!(said.contains("is killed, because its memory cannot be brought back"), "nobody says so: {said}");
    // What the others have is theirs.
    ctx.vm.peer().enter(|| crate::client::redis::verify(KEYS))?
}
