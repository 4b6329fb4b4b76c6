//! The new boot never completes, though every service is back: a reverse update brings the living services to the old kernel.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{KEYS, Scenario, Start, scenario};
use crate::runner::context::Ctx;
use crate::scenario::update::Clients;

/// Its entry in the registry.
pub const SCENARIO: Scenario = scenario(
    "boot-timeout",
    "the new boot does not complete within BootTimeoutSec: a reverse update brings back the living services",
    run,
);

/// From the new boot's first unit on, as PID 1 counts (CLOCK_MONOTONIC). However slow the machine is, nobody goes back while
/// the restore is under way: kup-settle.service waits for that.
const SETTINGS: &str = "BootTimeoutSec = 120\n";
/// What multi-user.target waits for, behind the restore. By the kernel: the way back has kup.txn= on its command line as well.
/// And it has the usual limit: a slow machine is not to be late there.
const STUCK: &str = "[Unit]\nAfter=kup-restore.service\nConditionKernelVersion=NEW\n\
    [Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/usr/bin/rm /etc/kup/kup.toml\nExecStart=/usr/bin/sleep infinity\n\
    [Install]\nWantedBy=multi-user.target\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    let stuck = STUCK.replace("NEW", &ctx.about().new_kernel);
    ctx.vm.put_bytes(stuck.as_bytes(), "/etc/systemd/system/lab-stuck.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-stuck.service")?;
    ctx.vm.put_bytes(SETTINGS.as_bytes(), "/etc/kup/kup.toml")?;
    let clients = Clients::connect(ctx, KEYS)?;
    ctx.step("kup update");
    // The shutdown may cut the connection before kup has ended.
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    // The new kernel may answer meanwhile, or not.
    let record = start.expect_back(ctx)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("the new boot did not complete"), "the reason is {reason:?}");
    ensure!(record["reverses"].is_string(), "the record does not say which update it takes back");
    clients.finish(ctx)?;
    let history = ctx.vm.ssh("kup history")?;
    ensure!(history.contains("failed") && history.contains("fell-back"), "kup history: {history}");
    start.expect_no_second_attempt(ctx)
}
