//! Shutdowns at other moments, and of other kinds, than an update expects: it is given up, and nothing of it stays.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::afterwards::expect_no_leftovers;
use super::update::Clients;
use super::{Scenario, concurrent, storage};
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "shutdowns",
    about: "apt at work when an armed update is to switch, a reboot while one is being armed, a poweroff of an armed machine",
    from: STAGED,
    all_only: true,
    run,
};

const LIMIT: Duration = Duration::from_secs(300);
/// Those that start at every boot.
const ENABLED: [&str; 3] = ["memcached.service", "redis-server.service", "nginx.service"];
/// The first update-grub takes as long as it is let: that of the pin, before the kernel is loaded.
const HOOK: &str = "/etc/grub.d/01_lab";
const SLOW: &str = "#!/bin/sh\n[ -e /run/lab-arming ] && exit 0\ntouch /run/lab-arming\nexec sleep 200\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    apt_at_the_switch(ctx)?;
    reboot_while_arming(ctx)?;
    poweroff_when_armed(ctx)
}

/// apt begins when the update is armed already: the checkpoint refuses, and the shutdown is called off.
fn apt_at_the_switch(ctx: &mut Ctx) -> Result<()> {
    let start = storage::Start::new(ctx)?;
    let clients = Clients::connect(ctx, storage::KEYS)?;
    ctx.step("dpkg is locked when the armed update is to switch");
    ctx.vm.put_bytes(concurrent::APT.as_bytes(), "/root/apt.py")?;
    // The shutdown does not stop it before the checkpoint has its turn.
    let apt = "systemd-run -q --property=DefaultDependencies=no --unit lab-apt python3 /root/apt.py && sleep 2";
    start.expect_aborted(ctx, apt, "a package manager is at work")?;
    clients.finish(ctx)?;
    ctx.vm.ssh("systemctl stop lab-apt")?;
    expect_no_leftovers(ctx)
}

/// No kernel is loaded yet, so it is a reboot, to what boots without the pin; memory goes as in any reboot.
fn reboot_while_arming(ctx: &mut Ctx) -> Result<()> {
    ctx.step("systemctl reboot while an update is being armed");
    ctx.vm.put_bytes(SLOW.as_bytes(), HOOK)?;
    ctx.vm.ssh(&format!("chmod 755 {HOOK} && systemd-run -q --unit lab-update kup update --yes --stage-only"))?;
    ctx.eventually(LIMIT, |ctx| {
        ctx.vm.ssh("test -e /run/lab-arming && test -e /etc/default/grub.d/zz-kup.cfg")?;
        ensure!(guest::state(&ctx.vm)? == "arming", "the update is {}", guest::state(&ctx.vm)?);
        Ok(())
    })?;
    let new = ctx.about().new_kernel.clone();
    guest::reboot(ctx, &new)?;
    ctx.vm.ssh(&format!("rm {HOOK}"))?;
    expect_given_up(ctx, "the worker died before the switch")
}

/// An armed machine that is switched off does not come up in the target.
fn poweroff_when_armed(ctx: &mut Ctx) -> Result<()> {
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    ctx.step("systemctl poweroff of an armed machine");
    ctx.vm.ssh(&format!("kup update --yes --stage-only --target {old}"))?;
    let before = ctx.vm.boot_id()?;
    ctx.vm.power_off(BOOT_LIMIT)?;
    ctx.step("and on again");
    ctx.vm.power_cut()?;
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    ctx.expect_kernel(&new)?;
    expect_given_up(ctx, "it was not 'systemctl kexec' that ended the armed update")
}

/// The record says that the update was given up before the switch, and why; services are up, with nothing of an update.
fn expect_given_up(ctx: &mut Ctx, why: &str) -> Result<()> {
    let record = guest::record(&ctx.vm)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(record["state"] == "aborted" && reason == why, "the update is {}: {reason}", record["state"]);
    ensure!(record["pin"].is_null(), "the boot loader is pinned to {}", record["pin"]["entry"]);
    for unit in ENABLED {
        let is = guest::service(&ctx.vm, unit)?;
        let was = &record["units"][unit]["state"];
        ensure!(is.active == "active" && was == "running", "{unit} is {is:?}, and {was} in the record");
    }
    let status = ctx.vm.try_ssh("kup status", LIMIT)?;
    ensure!(status.code == 6 && status.stdout.contains(why), "kup status ({}): {}", status.code, status.stdout);
    expect_no_leftovers(ctx)
}
