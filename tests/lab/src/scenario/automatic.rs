//! Automatic mode: one `apt-get install` of a kernel does everything.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::{Clients, expect_same, observe, start_services, verify};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{READY, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "automatic",
    about: "with Mode = \"automatic\", apt-get install of a kernel is all that the administrator does; no watchdog",
    from: READY,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
/// Unpacking and an initrd, on a slow machine.
const APT_LIMIT: Duration = Duration::from_secs(900);

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = start_services(ctx, KEYS)?;
    without_watchdog(ctx)?;
    ctx.vm.put_bytes(b"Mode = \"automatic\"\n", "/etc/kup/kup.toml")?;
    ctx.vm.ssh("apt-get -q update")?;
    let (boot, before) = (ctx.vm.boot_id()?, observe(ctx)?);
    let clients = Clients::connect(ctx, KEYS)?;
    let new = ctx.about().new_kernel.clone();
    ctx.step(&format!("apt-get install linux-image-{new}, and nothing else"));
    let install = format!("DEBIAN_FRONTEND=noninteractive apt-get -q install -y linux-image-{new}");
    let apt = ctx.vm.try_ssh(&install, APT_LIMIT)?;
    ensure!(apt.ok(), "apt-get was disturbed: it ended with {}: {} {}", apt.code, apt.stdout, apt.stderr);
    ensure!(!apt.stdout.contains("kup update"), "apt tells what to do, although nothing is to be done: {}", apt.stdout);
    let record = guest::switched(ctx, &boot)?;
    guest::expect_done(&record, &UNITS)?;
    ensure!(record["deadman"].is_null(), "a watchdog was made use of: {}", record["deadman"]);
    ctx.expect_kernel(&new)?;
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)?;
    expect_no_leftovers(ctx)?;
    ctx.step("dpkg was not cut short");
    let audit = ctx.vm.ssh("dpkg --audit")?;
    ensure!(audit.trim().is_empty(), "dpkg has something left to do: {audit}");
    Ok(())
}

/// A machine whose hangs nobody ends: it is said, and stands in the way of nothing.
fn without_watchdog(ctx: &mut Ctx) -> Result<()> {
    ctx.step("the machine has no watchdog");
    let unload = "for d in $(ls /sys/module/watchdog/holders); do \
                  printf 'blacklist %s\\ninstall %s /bin/false\\n' $d $d >>/etc/modprobe.d/lab-watchdog.conf; rmmod $d; done";
    ctx.vm.ssh(unload)?;
    let devices = ctx.vm.ssh("ls /sys/class/watchdog 2>/dev/null; true")?;
    ensure!(devices.trim().is_empty(), "there are watchdogs: {devices}");
    let check = ctx.vm.try_ssh("kup check", Duration::from_secs(300))?;
    ensure!(check.stdout.contains("[watchdog.none]"), "kup check ({}): {}{}", check.code, check.stdout, check.stderr);
    Ok(())
}
