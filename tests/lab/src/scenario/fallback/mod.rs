//! The new kernel does not bring the services back: the machine is by itself on the old one again, and so are they.

mod boot_timeout;
mod grub_uefi;
mod health;
mod no_loop;
mod none;
mod trouble;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::afterwards::{expect_no_leftovers, expect_nothing_left_but_the_pin};
use super::update::{Clients, Observed, expect_same, fill, observe, verify};
use crate::client::memcached::Keys;
use crate::guest::{self, Service};
use crate::ready::{self, STAGED, SYSTEMD_BOOT};
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

pub use boot_timeout::SCENARIO as BOOT_TIMEOUT;
pub use grub_uefi::SCENARIO as GRUB_UEFI;
pub use health::SCENARIO as HEALTH;
pub use no_loop::{EARLY as NO_LOOP_EARLY, SCENARIO as NO_LOOP};
pub use none::SCENARIO as NONE;
pub use trouble::Trouble;

/// Small: these scenarios are about where the services are, not about how much they hold.
const KEYS: Keys = Keys { count: 2 << 10, size: 8 << 10 };

/// One of the long ones, for `--all`: each waits for a watchdog, a timeout or a third boot.
const fn scenario(name: &'static str, about: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { name, about, from: STAGED, all_only: true, run }
}

/// One that every change has to pass.
const fn always(name: &'static str, about: &'static str, run: fn(&mut Ctx) -> Result<()>) -> Scenario {
    Scenario { all_only: false, ..scenario(name, about, run) }
}

/// The new kernel panics before its first process runs.
pub const PANIC: Scenario = always(
    "fallback-panic",
    "the new kernel panics: the machine resets itself, and the old kernel restores the services",
    |ctx| {
        run(ctx, Trouble::Panic)?;
        expect_stock_initrd_next(ctx)
    },
);
/// The new kernel stands still before it has a first process.
pub const HANG_KERNEL: Scenario = scenario(
    "fallback-hang-kernel",
    "the new kernel hangs before its first process: the watchdog resets, the old kernel restores",
    |ctx| run(ctx, Trouble::HangKernel),
);
/// The first process of the new boot does nothing.
pub const HANG_PID1: Scenario = scenario(
    "fallback-hang-pid1",
    "PID 1 of the new boot hangs: the watchdog resets, the old kernel restores",
    |ctx| run(ctx, Trouble::HangInit),
);
/// A service cannot be restored under the new kernel, because something before it never ends.
pub const STUCK: Scenario = scenario(
    "fallback-restore-stuck",
    "a restore gets stuck: nothing is resumed, and kup goes back to the old kernel",
    |ctx| run(ctx, Trouble::StuckRestore),
);
/// The new boot ends in an emergency shell.
pub const EMERGENCY: Scenario = scenario(
    "fallback-emergency",
    "the new boot ends in an emergency shell: kup goes back to the old kernel, and restores there",
    |ctx| run(ctx, Trouble::Emergency),
);
/// The power goes while the new kernel boots.
pub const POWER_CUT: Scenario = scenario(
    "fallback-power-cut",
    "the power is cut while the new kernel boots: the old kernel restores from disk",
    |ctx| run(ctx, Trouble::PowerCut),
);

/// The same with the other boot loader.
pub const SYSTEMD_BOOT_PANIC: Scenario = Scenario {
    from: SYSTEMD_BOOT,
    ..scenario(
        "fallback-systemd-boot",
        "the new kernel panics on a machine with UEFI and systemd-boot, with boot counting",
        |ctx| {
            // So that the new kernel's entry begins with three tries.
            ctx.vm.ssh("echo 3 >/etc/kernel/tries")?;
            ready::mark(&ctx.vm)?;
            ctx.install_new_kernel()?;
            run(ctx, Trouble::Panic)
        },
    )
};

fn run(ctx: &mut Ctx, trouble: Trouble) -> Result<()> {
    let start = Start::new(ctx)?;
    trouble.prepare(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    ctx.step("kup update");
    // The shutdown may cut the connection before kup has ended.
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    trouble.happens(ctx)?;
    let record = start.expect_back(ctx)?;
    trouble.expect_reason(&record)?;
    clients.finish(ctx)?;
    start.expect_no_second_attempt(ctx)?;
    expect_pin_let_go(ctx)
}

/// The boot loader is told to have been left pinned, until the administrator ends that.
fn expect_pin_let_go(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kup abort gives the boot loader its own choice back");
    let pinned = |ctx: &Ctx| ctx.vm.ssh_ok("kup check | grep -F boot.pinned");
    ensure!(pinned(ctx), "kup check does not say that the boot loader is pinned");
    ctx.vm.ssh("kup abort")?;
    ensure!(!pinned(ctx), "kup check says that the boot loader is still pinned");
    let again = ctx.vm.try_ssh("kup abort", Duration::from_secs(60))?;
    ensure!(!again.ok() && again.stderr.contains("no update is armed"), "once more: {again:?}");
    expect_no_leftovers(ctx)
}

/// The administrator's next attempt does without an initrd of kup's own, which might have been what failed.
fn expect_stock_initrd_next(ctx: &mut Ctx) -> Result<()> {
    ctx.step("the next attempt, given up before the switch");
    ctx.vm.ssh("kup update --yes --stage-only && kup abort")?;
    let said = ctx.vm.ssh("journalctl -o cat -u kup-update.service")?;
    ensure!(said.matches("an initrd for this machine alone").count() == 1, "not the first attempt alone: {said}");
    Ok(())
}

/// How it was before the update.
pub struct Start {
    services: Vec<Service>,
    observed: Observed,
    boot: String,
}

impl Start {
    /// Fills the services and looks.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        let services = fill(ctx, KEYS)?;
        let observed = observe(ctx)?;
        Ok(Self { services, observed, boot: ctx.vm.boot_id()? })
    }

    /// Waits until the machine is back on the old kernel; gives the record.
    fn wait_back(&self, ctx: &mut Ctx) -> Result<Value> {
        ctx.vm.wait_new_boot(&self.boot, BOOT_LIMIT).context("after the trouble")?;
        let record = ctx.eventually(BOOT_LIMIT, |ctx| {
            let record = guest::record(&ctx.vm)?;
            ensure!(record["state"] == "fell-back", "the update is {}: {}", record["state"], record["reason"]);
            Ok(record)
        })?;
        ctx.step("back");
        let old = ctx.about().old_kernel.clone();
        ctx.expect_kernel(&old)?;
        ctx.vm.wait_idle(BOOT_LIMIT)?;
        Ok(record)
    }

    /// The same, and all services are as they were.
    pub fn expect_back(&self, ctx: &mut Ctx) -> Result<Value> {
        let record = self.wait_back(ctx)?;
        expect_same(ctx, &self.services, &self.observed)?;
        verify(ctx, KEYS)?;
        expect_nothing_left_but_the_pin(ctx)?;
        let status = ctx.vm.try_ssh("kup status", Duration::from_secs(60))?;
        ensure!(
            status.code == 8 && status.stdout.contains("fell-back"),
            "kup status ({}) {}",
            status.code,
            status.stdout
        );
        Ok(record)
    }

    /// The old kernel boots by default, and the machine stays where it is.
    pub fn expect_no_second_attempt(&self, ctx: &mut Ctx) -> Result<()> {
        let old = ctx.about().old_kernel.clone();
        guest::reboot(ctx, &old)?;
        let state = guest::state(&ctx.vm)?;
        ensure!(state == "fell-back", "the update is {state}");
        expect_nothing_left_but_the_pin(ctx)
    }
}
