//! An update whose target begins with an initrd of kup's own.

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::update_filled;
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "small-initrd",
    about: "Initrd = \"small\": the target begins with an initrd for this machine alone, the boot loader keeps the distribution's",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    let initrd = format!("/boot/initrd.img-{}", ctx.about().new_kernel);
    let stock = ctx.vm.ssh(&format!("stat -c '%s %Y' {initrd}"))?;
    guest::settings(&ctx.vm, "initrd", "Initrd = \"small\"\n")?;
    update_filled(ctx, KEYS)?;
    let used = ctx.vm.ssh("journalctl -b -k -o cat | sed -n 's/^Freeing initrd memory: \\([0-9]*\\)K$/\\1/p'")?;
    let used: u64 = used.trim().parse().context("the kernel does not say how large its initrd was")?;
    let size = stock.split(' ').next().unwrap_or_default().parse::<u64>()? >> 10;
    ctx.figure("initrd of the distribution", size as f64, "KiB");
    ctx.figure("initrd that was used", used as f64, "KiB");
    ensure!(used < size, "the target has begun with {used} KiB, the distribution's initrd has {size} KiB");
    ensure!(ctx.vm.ssh(&format!("stat -c '%s %Y' {initrd}"))? == stock, "the boot loader's initrd has changed");
    expect_no_leftovers(ctx)
}
