//! Neither kernel can bring the services back: they start cold, the machine is up and stays up, and everything says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{KEYS, Scenario, scenario};
use crate::guest;
use crate::ready::UNITS;
use crate::runner::context::Ctx;
use crate::scenario::afterwards::expect_nothing_left_but_the_pin;
use crate::scenario::update::fill;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = scenario(
    "no-loop",
    "both kernels cannot restore: one way there, one way back, then cold services on a machine that stays up",
    run,
);

/// The same where the machine does not even come to a restore.
pub const EARLY: Scenario = scenario(
    "no-loop-early",
    "the machine is reset in both kernels before it restores: two tries to go back, then cold services",
    early,
);

/// In every boot that is to restore.
const RESET: &str = "[Service]\nExecStartPost=/bin/sh -c 'echo b >/proc/sysrq-trigger'\n";
/// What GRUB says when it boots.
const BOOTS: &str = "Loading Linux ";

/// CRIU is gone from the moment of the switch on, whichever kernel boots.
const NO_CRIU: &str = "[Unit]\nDefaultDependencies=no\nBefore=kup-restore.service\nAfter=systemd-remount-fs.service\nConditionPathExists=/usr/sbin/criu\n\
    [Service]\nType=oneshot\nExecStart=/bin/mv /usr/sbin/criu /usr/sbin/criu.away\n\
    [Install]\nWantedBy=sysinit.target\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    fill(ctx, KEYS)?;
    ctx.vm.put_bytes(NO_CRIU.as_bytes(), "/etc/systemd/system/lab-no-criu.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-no-criu.service")?;
    let before_all = boots(ctx)?;
    let before = ctx.vm.boot_id()?;
    ctx.step("kup update");
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT).context("after the switch")?;
    let record = ctx.eventually(BOOT_LIMIT, |ctx| {
        let record = guest::record(&ctx.vm)?;
        ensure!(record["state"] == "fell-back", "the update is {}", record["state"]);
        Ok(record)
    })?;
    let old = ctx.about().old_kernel.clone();
    ctx.expect_kernel(&old)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    ctx.step("everything says so");
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("criu is not installed any more"), "the reason is {reason:?}");
    for unit in UNITS {
        let cold = record["units"][unit]["state"]["cold"]["reason"].as_str();
        ensure!(cold.is_some_and(|why| why.contains("criu")), "{unit} is {}", record["units"][unit]["state"]);
        let is = guest::service(&ctx.vm, unit)?;
        ensure!(is.active == "active" && is.main_pid > 0, "{unit} is {is:?}");
    }
    let status = ctx.vm.try_ssh("kup status", Duration::from_secs(60))?;
    ensure!(status.code == 7 && status.stdout.contains("cold"), "kup status ({}): {}", status.code, status.stdout);
    expect_nothing_left_but_the_pin(ctx)?;
    ctx.step("and it stays so");
    let boot = ctx.vm.boot_id()?;
    std::thread::sleep(Duration::from_secs(30));
    ensure!(ctx.vm.boot_id()? == boot, "the machine went down again");
    let now = boots(ctx)?;
    ensure!(now == before_all + 2, "there were {} boots, not two", now - before_all);
    Ok(())
}

fn early(ctx: &mut Ctx) -> Result<()> {
    fill(ctx, KEYS)?;
    ctx.vm.put_bytes(RESET.as_bytes(), "/etc/systemd/system/kup-netlock.service.d/50-reset.conf")?;
    ctx.vm.ssh("systemctl daemon-reload")?;
    let (before, console) = (ctx.vm.boot_id()?, ctx.vm.serial_log().len());
    ctx.step("kup update");
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT).context("after all resets")?;
    let record = guest::wait_ended(ctx, BOOT_LIMIT)?;
    let old = ctx.about().old_kernel.clone();
    ctx.expect_kernel(&old)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(
        record["state"] == "failed" && reason.contains("boot after boot of the old kernel"),
        "{}: {reason}",
        record["state"]
    );
    for unit in UNITS {
        let (state, is) = (&record["units"][unit]["state"], guest::service(&ctx.vm, unit)?);
        ensure!(state["cold"].is_object() && is.active == "active", "{unit} is {state} and {is:?}");
    }
    let boots = ctx.vm.serial_log()[console..].matches(BOOTS).count();
    ensure!(boots == 3, "GRUB has booted {boots} times: two tries, and the boot that stays");
    expect_nothing_left_but_the_pin(ctx)
}

/// How many boots the journal knows.
fn boots(ctx: &Ctx) -> Result<usize> {
    Ok(ctx.vm.ssh("journalctl --list-boots --no-pager -q | wc -l")?.trim().parse()?)
}
