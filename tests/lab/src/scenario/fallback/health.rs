//! A health check fails on the new kernel: the living services go back, with everything that they did since.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{KEYS, Scenario, Start, always, expect_pin_let_go};
use crate::client::memcached::Keys;
use crate::client::{memcached, redis};
use crate::guest;
use crate::runner::context::Ctx;
use crate::scenario::update::Clients;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = always(
    "fallback-health",
    "a health check fails on the new kernel: a reverse update brings back the living services, connections and all",
    run,
);

/// Written on the new kernel: more of the same, so that the clients' own keys stay what they are.
const MORE: Keys = Keys { count: 3 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    let old = ctx.about().old_kernel.clone();
    // Waits until the lab has written its keys, then is content with the old kernel alone.
    let check = format!("while ! test -e /root/go-on; do sleep 0.2; done; test $(uname -r) = {old}");
    ctx.vm.put_bytes(format!("#!/bin/sh\n{check}\n").as_bytes(), "/usr/local/bin/health")?;
    ctx.vm.ssh("chmod 755 /usr/local/bin/health && kup preserve redis-server --health-check /usr/local/bin/health")?;
    ctx.vm.put_bytes(b"HealthTimeoutSec = 300\nBootTimeoutSec = 600\nDeadmanSec = 900\n", "/etc/kup/kup.toml")?;
    let clients = Clients::connect(ctx, KEYS)?;
    ctx.step("kup update");
    let boot = ctx.vm.boot_id()?;
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    ctx.vm.wait_new_boot(&boot, BOOT_LIMIT)?;
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)?;
    ctx.eventually(BOOT_LIMIT, |ctx| {
        let state = guest::state(&ctx.vm)?;
        ensure!(state == "assessing", "the update is {state}");
        Ok(())
    })?;
    ctx.step("keys are written on the new kernel");
    ctx.vm.peer().enter(|| memcached::fill(MORE).and_then(|()| redis::fill(MORE)))??;
    let on_new = ctx.vm.boot_id()?;
    ctx.vm.ssh("touch /root/go-on")?;
    // The new kernel checks, arms and switches before the old one boots.
    ctx.vm.wait_new_boot(&on_new, 2 * BOOT_LIMIT)?;
    let record = start.expect_back(ctx)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("health check of redis-server.service failed"), "the reason is {reason:?}");
    ensure!(record["reverses"].is_string(), "the record does not say which update it takes back");
    ctx.step("what was written on the new kernel is there");
    ctx.vm.peer().enter(|| memcached::verify(MORE).and_then(|()| redis::verify(MORE)))??;
    clients.finish(ctx)?;
    let history = ctx.vm.ssh("kup history")?;
    ensure!(history.contains("failed") && history.contains("fell-back"), "kup history: {history}");
    start.expect_no_second_attempt(ctx)?;
    expect_pin_let_go(ctx)
}
