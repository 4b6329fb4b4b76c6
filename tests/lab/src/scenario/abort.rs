//! A unit that cannot be dumped after all: everything goes on as if nothing had happened.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::afterwards::{expect_no_leftovers, grub_default};
use super::update::{Clients, expect_running, fill, verify};
use super::{Scenario, turncoat};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "abort",
    about: "a unit becomes uncheckpointable between check and dump: nothing dies, connections go on, all is put back",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
/// Not a daemon, and stopped before one that is.
const BEHIND: &str = "[Unit]\nAfter=cron.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n\
    [Install]\nWantedBy=multi-user.target\n";
const TIMER: &str = "[Timer]\nOnCalendar=2100-01-01\n[Install]\nWantedBy=timers.target\n";
/// All that is active and comes back by itself, or is brought back.
const ACTIVE: &str = "systemctl list-units --state=active --plain --no-legend | awk '{print $1}' | \
    grep -Ev '^(kup|session-|user|run-user|sys-|dev-)|\\.(slice|device)$' | sort";
fn run(ctx: &mut Ctx) -> Result<()> {
    let services = fill(ctx, KEYS)?;
    ctx.vm.put_bytes(BEHIND.as_bytes(), "/etc/systemd/system/lab-behind.service")?;
    ctx.vm.put_bytes(TIMER.as_bytes(), "/etc/systemd/system/lab-behind.timer")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable --now lab-behind.service lab-behind.timer")?;
    turncoat::start(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let (boot, before) = (ctx.vm.boot_id()?, grub_default(ctx)?);
    let active = ctx.vm.ssh(ACTIVE)?;
    ctx.step("kup update --stage-only");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    ensure!(guest::state(&ctx.vm)? == "armed", "the update is {}", guest::state(&ctx.vm)?);
    turncoat::turn(ctx)?;
    ctx.vm.ssh("systemctl kexec")?;
    let record = guest::wait_ended(ctx, Duration::from_secs(180))?;
    ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("turncoat.service"), "the reason does not name the unit: {reason}");
    ensure!(ctx.vm.boot_id()? == boot, "the machine went down all the same");
    ctx.step("all is as before");
    clients.finish(ctx)?;
    expect_running(ctx, &services)?;
    ensure!(grub_default(ctx)? == before, "the boot loader's default has changed");
    ctx.eventually(Duration::from_secs(60), |ctx| {
        let now = ctx.vm.ssh(ACTIVE)?;
        let lost: Vec<&str> = active.lines().filter(|unit| !now.lines().any(|other| other == *unit)).collect();
        ensure!(lost.is_empty(), "these were active: {lost:?}");
        Ok(())
    })?;
    verify(ctx, KEYS)?;
    expect_no_leftovers(ctx)?;
    ctx.step("and the next update works");
    ctx.vm.ssh("kup release turncoat")?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)
}
