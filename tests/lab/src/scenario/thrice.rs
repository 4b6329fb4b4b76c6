//! Three updates in a row with the same processes all the way: what one update leaves must not spoil the next.

use anyhow::{Result, ensure};

use super::Scenario;
use super::update::{Clients, expect_same, fill, observe, verify};
use crate::client::memcached::Keys;
use crate::client::testserver;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update-thrice",
    about: "old to new, back to old, and to new again, with the same processes and connections all the way",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    // The other scenarios begin with a small initrd.
    guest::settings(&ctx.vm, "initrd", "Initrd = \"stock\"\n")?;
    let services = fill(ctx, KEYS)?;
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    for target in [&new, &old, &new] {
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &UNITS)?;
        ctx.expect_kernel(target)?;
        ctx.vm.peer().enter(testserver::check)??;
        let default = ctx.vm.ssh("kup status --json")?;
        ensure!(default.contains(target.as_str()), "kup status does not name {target}: {default}");
    }
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)
}
