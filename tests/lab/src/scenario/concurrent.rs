//! Two things at a time: another update, the package manager, a reboot, a mark taken away.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::{Clients, expect_running, fill, verify};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::sh::Output;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "concurrent",
    about: "two updates at once, apt in progress, kup release in the middle, systemctl reboot of an armed machine",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(300);
/// What apt holds while it works.
pub const APT: &str =
    "import fcntl,time\nf=open('/var/lib/dpkg/lock-frontend','w')\nfcntl.lockf(f,fcntl.LOCK_EX)\ntime.sleep(1000)\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = fill(ctx, KEYS)?;
    apt_in_progress(ctx)?;
    two_updates(ctx)?;
    given_up_as_it_switches(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    ctx.step("a mark is taken away while the update is armed");
    ctx.vm.ssh("kup release memcached")?;
    ensure!(guest::state(&ctx.vm)? == "armed", "the update is {}", guest::state(&ctx.vm)?);
    ctx.step(
        "systemctl reboot of an armed machine is the switch, also where the lock is held for a moment as it begins",
    );
    let hold = "flock /run/kup/lock sleep 3";
    ctx.vm.ssh(&format!("systemd-run -q --property=DefaultDependencies=no --unit lab-lock {hold} && sleep 1"))?;
    let boot = ctx.vm.boot_id()?;
    // The shutdown may cut the connection before systemctl has ended.
    let _ = ctx.vm.try_ssh("systemctl reboot", LIMIT);
    let record = guest::switched(ctx, &boot)?;
    guest::expect_done(&record, &UNITS)?;
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)?;
    clients.finish(ctx)?;
    expect_running(ctx, &services)?;
    verify(ctx, KEYS)?;
    expect_no_leftovers(ctx)
}

/// The shutdown waits for whoever gives the update up, and is called off then: no service ends.
fn given_up_as_it_switches(ctx: &mut Ctx) -> Result<()> {
    ctx.step("systemctl kexec while the update is being given up");
    let (boot, services) = (ctx.vm.boot_id()?, UNITS.map(|unit| guest::service(&ctx.vm, unit)));
    // As soon as the lock is held. systemctl itself would see that no kernel is loaded.
    let both = "kup abort & while flock -n /run/kup/lock true; do sleep 0.01; done; \
                systemctl start --no-block --job-mode=replace-irreversibly kexec.target; wait";
    ctx.vm.try_ssh(both, LIMIT)?;
    ctx.eventually(LIMIT, |ctx| {
        ensure!(guest::state(&ctx.vm)? == "aborted", "the update is {}", guest::state(&ctx.vm)?);
        let jobs = ctx.vm.ssh("systemctl list-jobs --no-legend --plain")?;
        ensure!(jobs.trim().is_empty(), "jobs are queued: {jobs}");
        Ok(())
    })?;
    ensure!(ctx.vm.boot_id()? == boot, "the machine went down");
    for (unit, before) in UNITS.iter().zip(services) {
        ensure!(guest::service(&ctx.vm, unit)? == before?, "{unit} is another than before");
    }
    let out = ctx.vm.try_ssh("kup update --yes --stage-only", LIMIT)?;
    ensure!(out.ok(), "the next update cannot be armed: {}", out.stderr);
    Ok(())
}

fn apt_in_progress(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kup update while dpkg is locked");
    ctx.vm.put_bytes(APT.as_bytes(), "/root/apt.py")?;
    ctx.vm.ssh("systemd-run --unit lab-apt python3 /root/apt.py && sleep 2")?;
    let out = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
    ensure!(
        out.code == 3 && out.text().contains("package manager"),
        "kup update ends with {}: {}",
        out.code,
        text(&out)
    );
    ensure!(guest::state(&ctx.vm)? == "refused", "the update is {}", guest::state(&ctx.vm)?);
    ctx.vm.ssh("systemctl stop lab-apt").map(drop)
}

fn two_updates(ctx: &mut Ctx) -> Result<()> {
    ctx.step("two updates at once: one is armed, the other one told that it is not alone");
    let both = "kup update --yes --stage-only >/root/1 2>&1 & kup update --yes --stage-only >/root/2 2>&1; two=$?; \
                wait $!; echo $? $two";
    let codes = ctx.vm.try_ssh(both, LIMIT)?.stdout;
    let mut codes: Vec<&str> = codes.split_whitespace().collect();
    codes.sort_unstable();
    ensure!(codes == ["0", "5"], "the two end with {codes:?}: {}", ctx.vm.ssh("cat /root/1 /root/2")?);
    let third = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
    ensure!(third.code == 5 && text(&third).contains("armed"), "a third ends with {}: {}", third.code, text(&third));
    ensure!(guest::state(&ctx.vm)? == "armed", "the update is {}", guest::state(&ctx.vm)?);
    Ok(())
}

fn text(out: &Output) -> String {
    format!("{}{}", out.stdout, out.stderr)
}
