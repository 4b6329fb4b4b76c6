//! How fast the machine itself is: what every other figure includes.

use std::time::Instant;

use anyhow::Result;

use crate::ready::READY;
use crate::runner::context::Ctx;
use crate::scenario::Scenario;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "machine",
    about: "a command by ssh, a saved state loaded, a reboot through GRUB, without kup's doing",
    from: READY,
    all_only: false,
    run,
};

fn run(ctx: &mut Ctx) -> Result<()> {
    let started = Instant::now();
    ctx.vm.ssh("true")?;
    ctx.figure("ssh command", started.elapsed().as_secs_f64(), "s");
    let started = Instant::now();
    ctx.vm.loadvm(READY)?;
    ctx.figure("saved state loaded", started.elapsed().as_secs_f64(), "s");
    let before = ctx.vm.boot_id()?;
    let started = Instant::now();
    ctx.vm.ssh("systemctl reboot --no-block")?;
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT)?;
    ctx.figure("reboot until ssh", started.elapsed().as_secs_f64(), "s");
    Ok(())
}
