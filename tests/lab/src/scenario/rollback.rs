//! `kup rollback`: an update that was done is taken back, with everything that the services did since.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::fallback::Start;
use super::update::Clients;
use crate::client::memcached::Keys;
use crate::client::{memcached, redis};
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "rollback",
    about: "kup rollback after an update that was done: back to the old kernel with the living services, which then boots",
    from: STAGED,
    all_only: false,
    run,
};

/// What the clients read, of what [`Start`] writes.
const KEYS: Keys = Keys { count: 2 << 10, size: 8 << 10 };
/// Written on the new kernel: more of the same, so that the clients' own keys stay what they are.
const MORE: Keys = Keys { count: 3 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(300);

fn run(ctx: &mut Ctx) -> Result<()> {
    expect_nothing_to_roll_back(ctx)?;
    let start = Start::new(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let update = guest::update(ctx, "")?;
    guest::expect_done(&update, &UNITS)?;
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)?;
    ctx.step("keys are written on the new kernel");
    ctx.vm.peer().enter(|| memcached::fill(MORE).and_then(|()| redis::fill(MORE)))??;
    ctx.step("kup rollback");
    let on_new = ctx.vm.boot_id()?;
    // The shutdown may cut the connection before kup has ended.
    let said = ctx.vm.try_ssh("kup rollback --yes", LIMIT);
    if let Ok(out) = &said {
        ensure!(![1, 2, 3, 5, 6].contains(&out.code), "kup rollback ({}): {}{}", out.code, out.stdout, out.stderr);
    }
    let record = guest::switched(ctx, &on_new)?;
    ensure!(record["state"] == "fell-back", "the update is {}: {}", record["state"], record["reason"]);
    ensure!(record["reverses"] == update["id"], "it takes {} back, not {}", record["reverses"], update["id"]);
    ensure!(record["reason"].is_null(), "something went wrong on the way back: {}", record["reason"]);
    for unit in UNITS {
        let state = &record["units"][unit]["state"];
        ensure!(state == "resumed", "{unit} is {state}");
    }
    // All that was there before the update, and how `kup status` ends.
    start.expect_back(ctx)?;
    ctx.step("what was written on the new kernel is there");
    ctx.vm.peer().enter(|| memcached::verify(MORE).and_then(|()| redis::verify(MORE)))??;
    clients.finish(ctx)?;
    let history = ctx.vm.ssh("kup history")?;
    ensure!(history.contains("done") && history.contains("fell-back"), "kup history: {history}");
    ctx.step("there is nothing to give up, and nothing more to roll back");
    let abort = ctx.vm.try_ssh("kup abort", LIMIT)?;
    ensure!(!abort.ok() && abort.stderr.contains("no update is armed"), "kup abort: {abort:?}");
    expect_nothing_to_roll_back(ctx)?;
    start.expect_no_second_attempt(ctx)
}

/// Only an update that was done can be taken back.
fn expect_nothing_to_roll_back(ctx: &mut Ctx) -> Result<()> {
    let out = ctx.vm.try_ssh("kup rollback --yes", LIMIT)?;
    ensure!(out.code == 1 && out.stderr.contains("nothing to roll back"), "kup rollback: {out:?}");
    Ok(())
}
