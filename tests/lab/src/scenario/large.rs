//! A service that is larger than half of the machine lives through an update, within the memory that the check has said; and
//! where that is not there, the update is refused.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "large",
    about: "a service larger than half of the memory: the check tells what its update takes, that holds, or it is refused",
    from: STAGED,
    all_only: true,
    run,
};

const PROGRAM: &str = include_str!("large.py");
const UNIT: &str = "large.service";
/// Percent of the machine's memory.
const SHARE: u64 = 55;
/// What is left to an update that is to be refused, MiB: less than two copies of a kernel and its initrd.
const LITTLE: u64 = 60;
/// What others may have taken meanwhile, MiB.
const SLACK: u64 = 48;
const LIMIT: Duration = Duration::from_secs(600);
/// Writes down, until it is killed, how much memory is available.
const SAMPLER: &str = "rm -f /root/memory; systemd-run -q --unit lab-memory /bin/sh -c \
    'while sleep 0.2; do grep MemAvailable /proc/meminfo >>/root/memory; done'";
/// The least of it, MiB.
const LEAST: &str = "sort -nk2 /root/memory | awk 'NR == 1 { print int($2 / 1024) }'";

/// What of the service is in huge pages, MiB.
const HUGE: &str = "awk '/AnonHugePages/ { print int($2 / 1024) }' \
    /proc/$(systemctl show --value -p MainPID large)/smaps_rollup";

fn run(ctx: &mut Ctx) -> Result<()> {
    // RAM cannot hold it twice, whatever the lab was told.
    guest::settings(&ctx.vm, "large", "Storage = \"disk\"\n")?;
    let mib = u64::from(ctx.vm.spec().memory) * SHARE / 100;
    ctx.step(&format!("a service of {mib} MiB"));
    ctx.vm.put_bytes(PROGRAM.as_bytes(), "/usr/local/bin/large")?;
    let unit = format!("[Service]\nStateDirectory=large\nExecStart=/usr/bin/python3 /usr/local/bin/large {mib}\n");
    ctx.vm.put_bytes(unit.as_bytes(), &format!("/etc/systemd/system/{UNIT}"))?;
    ctx.vm.ssh(&format!("kup release {} && systemctl daemon-reload && systemctl start {UNIT}", UNITS.join(" ")))?;
    ctx.vm.ssh(&format!("systemctl stop {}; kup preserve large", UNITS.join(" ")))?;
    let sum = told(ctx)?;
    refused(ctx)?;

    ctx.step("an update, within the memory that the check has said");
    let (severity, message) = finding(ctx)?;
    ensure!(severity == "note", "space.memory is a {severity}: {message}");
    let predicted: u64 =
        message.split("up to ").nth(1).and_then(|m| m.split(' ').next()).context(message.clone())?.parse()?;
    let before = guest::available(&ctx.vm)?;
    ctx.vm.ssh(SAMPLER)?;
    let (was, huge) = (guest::service(&ctx.vm, UNIT)?, number(ctx, HUGE)?);
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &[UNIT])?;
    ensure!(guest::service(&ctx.vm, UNIT)? == was, "{UNIT} is another than before");
    expect_huge_pages(ctx, huge)?;
    ctx.vm.ssh("rm /var/lib/large/sum && systemctl kill --signal=USR1 large")?;
    ensure!(told(ctx)? == sum, "its memory has changed");
    let took = before.saturating_sub(number(ctx, LEAST)?);
    ctx.figure("memory, predicted", predicted as f64, "MiB");
    ctx.figure("memory, taken", took as f64, "MiB");
    ensure!(took <= predicted + SLACK, "the update took {took} MiB, and {predicted} MiB were predicted");
    Ok(())
}

/// Its memory is in huge pages again, as far as there were some; and sooner than by the kernel's own efforts.
fn expect_huge_pages(ctx: &mut Ctx, before: u64) -> Result<()> {
    let now = number(ctx, HUGE)?;
    ctx.figure("huge pages before", before as f64, "MiB");
    ctx.figure("huge pages after", now as f64, "MiB");
    ensure!(before > 0, "nothing was in huge pages; is /sys/kernel/mm/transparent_hugepage/enabled 'always'?");
    // Where memory is in pieces there may be no room for all of them.
    ensure!(now >= before / 2, "{now} MiB are in huge pages, and {before} MiB were");
    Ok(())
}

/// Little memory is left: the check says so, and nothing is touched.
fn refused(ctx: &mut Ctx) -> Result<()> {
    ctx.step("there is no memory for an update");
    guest::hog(&ctx.vm, LITTLE)?;
    let (severity, message) = finding(ctx)?;
    ensure!(severity == "blocker", "space.memory is a {severity}: {message}");
    let out = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
    ensure!(out.code == 3, "kup update ended with {}: {}", out.code, out.stderr);
    ctx.vm.ssh("systemctl stop lab-hog")?;
    ensure!(guest::service(&ctx.vm, UNIT)?.active == "active", "{UNIT} does not run");
    Ok(())
}

/// What the check says of memory.
fn finding(ctx: &mut Ctx) -> Result<(String, String)> {
    let out = ctx.vm.try_ssh("kup check --json", LIMIT)?;
    let check: Value = serde_json::from_str(&out.stdout).with_context(|| out.stderr.clone())?;
    let found = check["findings"].as_array().into_iter().flatten().find(|f| f["id"] == "space.memory");
    let found = found.with_context(|| format!("no space.memory in {check}"))?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Ok((text("severity"), text("message")))
}

/// The checksum that the service has told, once it has.
fn told(ctx: &mut Ctx) -> Result<String> {
    ctx.eventually(LIMIT, |ctx| ctx.vm.ssh("cat /var/lib/large/sum"))
}

fn number(ctx: &mut Ctx, command: &str) -> Result<u64> {
    Ok(ctx.vm.ssh(command)?.trim().parse()?)
}
