//! A shutdown that is cancelled when the services' memory is in images already: nobody uses one beside what came later.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::{expect_no_leftovers, grub_default};
use super::update::fill;
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "cancelled",
    about: "the shutdown is cancelled behind the checkpoint: services stay down until kup abort, and start cold then",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 256, size: 8 << 10 };
/// It is stopped behind the checkpoint, and does what an administrator at the console would do.
const CANCELS: &str = "[Unit]\nDefaultDependencies=no\nConflicts=shutdown.target\n\
    Before=shutdown.target kup-checkpoint.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/true\n\
    ExecStop=/usr/bin/systemctl cancel\nExecStop=/usr/bin/systemctl --no-block start multi-user.target\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    fill(ctx, KEYS)?;
    ctx.vm.put_bytes(CANCELS.as_bytes(), "/etc/systemd/system/lab-cancels.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl start lab-cancels.service")?;
    let (boot, before) = (ctx.vm.boot_id()?, grub_default(ctx)?);
    ctx.step("kup update, whose shutdown is cancelled");
    let out = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    ctx.eventually(BOOT_LIMIT, |ctx| {
        ctx.vm.drop_connection();
        let done = ctx.vm.ssh("journalctl -b -u lab-cancels.service -o cat")?.contains("Deactivated successfully");
        ensure!(done, "the shutdown has not come so far: {out:?}");
        Ok(())
    })?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    ensure!(ctx.vm.boot_id()? == boot, "the machine went down all the same");
    ensure!(guest::state(&ctx.vm)? == "switching", "the update is {}", guest::state(&ctx.vm)?);

    ctx.step("no service starts");
    for unit in UNITS {
        let said = ctx.vm.try_ssh(&format!("systemctl start {unit}"), Duration::from_secs(60))?;
        let active = guest::service(&ctx.vm, unit)?.active;
        // Its processes were killed when they were in their image: for systemd it may have failed.
        ensure!(["inactive", "failed"].contains(&active.as_str()), "{unit} is {active}: {said:?}");
    }
    ctx.step("kup abort");
    ctx.vm.ssh("kup abort")?;
    let record = guest::record(&ctx.vm)?;
    ensure!(record["state"] == "failed", "the update is {}", record["state"]);
    ctx.eventually(Duration::from_secs(60), |ctx| {
        for unit in UNITS {
            let (state, active) = (&record["units"][unit]["state"], guest::service(&ctx.vm, unit)?.active);
            ensure!(state["cold"].is_object() && active == "active", "{unit} is {state} and {active}");
        }
        Ok(())
    })?;
    ensure!(grub_default(ctx)? == before, "the boot loader's default has changed");
    expect_no_leftovers(ctx)?;

    ctx.step("and the next update works");
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)
}
