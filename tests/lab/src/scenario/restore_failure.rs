//! The image of one unit is damaged on its way, that of another comes into other hands: these start cold, the others live on, and
//! everything says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::expect_redis_and_testserver;
use crate::client::memcached::Keys;
use crate::client::{Pulse, redis, testserver};
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "restore-failure",
    about: "images of a unit damaged after the switch, those of another given away: both start cold, the others live on",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
/// Whose image is damaged.
const VICTIM: &str = "memcached.service";
/// Whose images somebody else might have changed.
const GIVEN_AWAY: &str = "nginx.service";
/// Loses the second half of what memcached's memory was, before anything is restored: what a failing disk does.
const DAMAGE: &str = "[Unit]
DefaultDependencies=no
RequiresMountsFor=/var/lib/kup
After=systemd-remount-fs.service
Before=kup-restore.service
ConditionKernelCommandLine=kup.txn
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'for f in /var/lib/kup/images/*/memcached.service/pages-*.img; do \
    s=$(stat -c %%s $f); truncate -s $((s / 8192 * 4096)) $f && echo damaged $f of $s; done'
ExecStart=/bin/sh -c 'chown -v nobody /var/lib/kup/images/*/nginx.service'
[Install]
WantedBy=multi-user.target
";

fn run(ctx: &mut Ctx) -> Result<()> {
    let before = super::update::fill(ctx, KEYS)?;
    let run_id = ctx.vm.peer().enter(redis::run_id)??;
    ctx.vm.put_bytes(DAMAGE.as_bytes(), "/etc/systemd/system/lab-damage.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-damage.service")?;
    let peer = ctx.vm.peer();
    let pulses = [
        ("redis", Pulse::start("redis", peer, move || redis::Client::connect(KEYS))?),
        ("test server", Pulse::start("test server", peer, testserver::Client::connect)?),
    ];
    ctx.step("kup update --stage-only, then systemctl kexec");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    let boot = ctx.vm.boot_id()?;
    // The shutdown may cut the connection before systemctl has ended.
    let _ = ctx.vm.try_ssh("systemctl kexec", Duration::from_secs(120));
    let record = guest::switched(ctx, &boot)?;
    let damaged = ctx.vm.ssh("journalctl -b -u lab-damage.service -o cat")?;
    ensure!(damaged.contains("damaged /var/lib/kup/images/"), "nothing was damaged: {damaged}");
    ctx.vm.ssh("systemctl disable lab-damage.service && rm /etc/systemd/system/lab-damage.service")?;

    ctx.step("the others live on");
    let lives_on = |unit: &&str| ![VICTIM, GIVEN_AWAY].contains(unit);
    let others: Vec<&str> = UNITS.into_iter().filter(lives_on).collect();
    guest::expect_done(&record, &others)?;
    for (name, pulse) in pulses {
        let rhythm = pulse.stop()?;
        ctx.step(&format!("{name}: {} answers on one connection", rhythm.requests));
    }
    for (unit, was) in UNITS.iter().zip(&before).filter(|(unit, _)| lives_on(unit)) {
        let is = guest::service(&ctx.vm, unit)?;
        ensure!(is == *was && is.restarts == 0, "{unit} was {was:?} and is {is:?}");
    }
    expect_redis_and_testserver(ctx, KEYS, &run_id)?;
    expect_cold(ctx, &record)?;
    expect_distrusted(ctx, &record)?;
    expect_no_leftovers(ctx)
}

/// Nothing of an image is used that somebody else than root could have written.
fn expect_distrusted(ctx: &mut Ctx, record: &Value) -> Result<()> {
    ctx.step("the one whose image belongs to somebody else started cold");
    let unit = &record["units"][GIVEN_AWAY];
    let why = unit["state"]["cold"]["reason"].as_str().unwrap_or_default();
    let says = why.contains("its image is not to be trusted") && why.contains("belongs to user");
    ensure!(says, "{GIVEN_AWAY} is {}", unit["state"]);
    ctx.eventually(Duration::from_secs(30), |ctx| {
        let is = guest::service(&ctx.vm, GIVEN_AWAY)?;
        let name = ctx.vm.ssh(&format!("cat /proc/{}/comm", is.main_pid))?;
        let fresh = is.active == "active" && Some(u64::from(is.main_pid)) != unit["main_pid"].as_u64();
        ensure!(fresh && name.trim() == "nginx", "{GIVEN_AWAY} is {is:?}, {name}");
        Ok(())
    })
}

/// The damaged unit runs as a fresh one, and record, status and history tell why.
fn expect_cold(ctx: &mut Ctx, record: &Value) -> Result<()> {
    ctx.step("the damaged one started cold, and everything says so");
    let reason = record["units"][VICTIM]["state"]["cold"]["reason"].as_str();
    let reason = reason.with_context(|| format!("{VICTIM} is {}", record["units"][VICTIM]["state"]))?;
    let is = ctx.eventually(Duration::from_secs(30), |ctx| {
        let is = guest::service(&ctx.vm, VICTIM)?;
        let name = ctx.vm.ssh(&format!("cat /proc/{}/comm", is.main_pid))?;
        ensure!(is.active == "active" && name.trim() == "memcached", "{VICTIM} is {is:?}, {name}");
        Ok(is)
    })?;
    ensure!(Some(u64::from(is.main_pid)) != record["units"][VICTIM]["main_pid"].as_u64(), "it has its old PID");
    ctx.vm.peer().enter(|| crate::client::memcached::fill(KEYS))??;
    let status = ctx.vm.try_ssh("kup status", Duration::from_secs(60))?;
    ensure!(status.code == 7, "kup status ends with {}", status.code);
    let line = status.stdout.lines().find(|line| line.contains(VICTIM) && line.contains("cold"));
    let line = line.with_context(|| format!("kup status does not say that {VICTIM} is cold: {}", status.stdout))?;
    ensure!(line.contains(reason), "kup status does not say why ({reason}): {line}");
    ctx.step(&format!("kup status: {}", line.trim()));
    let json = ctx.vm.try_ssh("kup --json status", Duration::from_secs(60))?;
    let json: Value = serde_json::from_str(&json.stdout)?;
    let units = json["update"]["units"].as_array().context("kup --json status has no units")?;
    let told = units.iter().any(|u| u["unit"] == VICTIM && u["state"] == "cold" && u["reason"] == reason);
    ensure!(json["update"]["state"] == "done" && told, "kup --json status says {json}");
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)
}
