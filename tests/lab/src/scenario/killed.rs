//! SIGKILL of those that work for an update beside kup-worker, which `faults-kill` is about: kupd, and CRIU on both sides of
//! the switch.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::fallback::Start;
use super::update::{Clients, expect_running, fill, verify};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "killed",
    about: "kupd is killed while it watches an update; CRIU hangs while it pre-dumps, is killed while it dumps, and while it restores",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 2 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(300);
/// Stops those that pre-dump, as one does that waits for a task that never stops.
const STOP: &str = "until pkill -STOP -f \"pre-dump --rp[c]\"; do sleep 0.02; done";
/// Kills the first CRIU at work, which calls itself so then. Not a pre-dump: without one the update goes on.
const KILL: &str = "until pkill -KILL -f \"(^|[^-])(dump|restore) --rp[c]\"; do sleep 0.02; done";

fn run(ctx: &mut Ctx) -> Result<()> {
    // As soon as it begins. A CRIU that is killed while its code runs inside a task leaves the task to that code: it may crash,
    // and who stands in a read of a paused connection is told that it is not permitted. Nobody could be in time to prevent it.
    dump(ctx)?;
    kupd(ctx)?;
    restore(ctx)
}

/// Every unit goes on as if nothing had happened.
fn dump(ctx: &mut Ctx) -> Result<()> {
    let services = fill(ctx, KEYS)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let boot = ctx.vm.boot_id()?;
    ctx.step("CRIU hangs while it pre-dumps, and is killed while it dumps");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    ctx.vm
        .ssh(&format!("systemd-run -q --property=DefaultDependencies=no --unit lab-killer sh -c '{STOP}; {KILL}'"))?;
    ctx.vm.ssh("systemctl kexec")?;
    let record = guest::wait_ended(ctx, LIMIT)?;
    let said = ctx.vm.ssh("journalctl -b -o cat -u kup-checkpoint.service")?;
    ensure!(said.contains("memory is not copied in advance: criu did nothing for"), "the journal says {said}");
    ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
    ensure!(ctx.vm.boot_id()? == boot, "the machine went down all the same");
    clients.finish(ctx)?;
    expect_running(ctx, &services)?;
    verify(ctx, KEYS)?;
    expect_no_leftovers(ctx)
}

/// kupd only watches: what it has started goes on, and the next one knows of it.
fn kupd(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kupd is killed while an update is armed");
    ctx.vm.ssh("systemd-run -q --unit lab-update kup update --yes --stage-only")?;
    let begun = "until systemctl is-active kup-update.service | grep -qx activating; do sleep 0.2; done";
    ctx.vm.ssh(&format!("{begun}; pkill -KILL -x kupd"))?;
    ctx.eventually(LIMIT, |ctx| {
        let state = guest::state(&ctx.vm)?;
        ensure!(state == "armed", "the update is {state}");
        Ok(())
    })?;
    let status = ctx.vm.ssh("kup status")?;
    ensure!(status.contains("armed"), "kup status says {status}");
    ctx.vm.ssh("kup abort; systemctl reset-failed kupd.service lab-update.service 2>/dev/null; true")?;
    ensure!(guest::state(&ctx.vm)? == "aborted", "the update is {}", guest::state(&ctx.vm)?);
    expect_no_leftovers(ctx)
}

/// Nothing was resumed, and the images are as good as they were: the old kernel restores them.
fn restore(ctx: &mut Ctx) -> Result<()> {
    // What a CRIU that was killed has left may have crashed, a child that nobody has asked since.
    ctx.vm.ssh("systemctl restart kup-testserver.service")?;
    let start = Start::new(ctx)?;
    // Those whom it is after have most of the machine's time.
    let killer = format!(
        "[Unit]\nDefaultDependencies=no\nBefore=kup-restore.service\nConditionKernelCommandLine=kup.txn\n\
         [Service]\nCPUSchedulingPolicy=rr\nExecStart=/bin/sh -c '{KILL}'\n[Install]\nWantedBy=kup-restore.service\n"
    );
    ctx.vm.put_bytes(killer.as_bytes(), "/etc/systemd/system/lab-killer.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-killer.service")?;
    let clients = Clients::connect(ctx, KEYS)?;
    ctx.step("kup update, with a CRIU that is killed while it restores");
    let _ = ctx.vm.try_ssh("kup update --yes", LIMIT);
    let record = start.expect_back(ctx)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("cannot be restored"), "the reason is {reason:?}");
    clients.finish(ctx).map(drop)
}
