//! Images hold secrets, and root believes the record: both are root's alone at every moment of an update.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::afterwards::expect_no_leftovers;
use super::fallback::{Start, Trouble};
use super::{Scenario, turncoat};
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "security",
    about: "unprivileged users against files and programs; modes of images and record watched through an abort, a reset and \
            an update",
    from: STAGED,
    all_only: true,
    run,
};

const LIMIT: Duration = Duration::from_secs(300);
const WATCH: &str = include_str!("security.py");
const UNIT: &str = "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\n\
    [Service]\nExecStart=/usr/bin/python3 /usr/local/bin/lab-security\nNice=5\n[Install]\nWantedBy=sysinit.target\n";
/// Somebody without any rights.
const NOBODY: &str = "runuser -u nobody -- ";
/// What nobody but root may do; each has to fail.
const FORBIDDEN: [&str; 9] = [
    "cat /etc/kup/record.json",
    "cat /etc/kup/record.copy.json",
    "ls /var/lib/kup/images",
    "ls /run/kup",
    "touch /etc/kup/kup.toml.d/x.toml",
    "touch /var/lib/kup/staged.json",
    "/usr/libexec/kup/kup-worker update",
    "/usr/libexec/kup/kup-worker settle",
    "/usr/libexec/kup/kup-worker abort",
];

fn run(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    ctx.vm.put_bytes(WATCH.as_bytes(), "/usr/local/bin/lab-security")?;
    ctx.vm.put_bytes(UNIT.as_bytes(), "/etc/systemd/system/lab-security.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable --now lab-security.service")?;
    let first = ctx.vm.boot_id()?;
    given_up(ctx)?;
    reset(ctx, &start)?;
    let second = ctx.vm.boot_id()?;
    ctx.step("an update that is done");
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    expect_no_leftovers(ctx)?;
    strangers(ctx)?;
    ctx.step("what was seen meanwhile");
    ctx.vm.ssh("systemctl disable --now lab-security.service")?;
    // Of the boot that was cut short nothing may have come to the disk.
    for boot in [first, second, ctx.vm.boot_id()?] {
        let seen = ctx.vm.ssh(&format!("cat /var/log/lab-security.{boot}"))?;
        ensure!(!seen.contains("BAD"), "{seen}");
        let images =
            seen.split("'images': ").nth(1).and_then(|rest| rest.split([',', '}']).next()).context("no count")?;
        ensure!(images.trim().parse::<u32>()? > 10, "the watch saw no images: {seen}");
        ctx.step(seen.trim());
    }
    Ok(())
}

/// An update that is aborted when there are images already.
fn given_up(ctx: &mut Ctx) -> Result<()> {
    turncoat::start(ctx)?;
    ctx.vm.ssh("kup update --yes --stage-only")?;
    strangers(ctx)?;
    turncoat::turn(ctx)?;
    ctx.step("systemctl kexec, which is aborted");
    ctx.vm.ssh("systemctl kexec")?;
    let record = guest::wait_ended(ctx, LIMIT)?;
    ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
    expect_no_leftovers(ctx)?;
    strangers(ctx)?;
    ctx.vm.ssh("kup release turncoat && systemctl stop turncoat").map(drop)
}

/// An update whose new boot is cut short when all images lie on the disk: the old kernel uses them, and wipes them.
fn reset(ctx: &mut Ctx, start: &Start) -> Result<()> {
    // So that the console tells when the new kernel begins.
    ctx.vm.put_bytes(b"KernelArguments = \"loglevel=7\"\n", "/etc/kup/kup.toml")?;
    ctx.step("kup update, and a power cut");
    // The shutdown may cut the connection before kup has ended.
    let _ = ctx.vm.try_ssh("kup update --yes", LIMIT);
    Trouble::PowerCut.happens(ctx)?;
    start.expect_back(ctx)?;
    strangers(ctx)?;
    ctx.vm.ssh("rm /etc/kup/kup.toml").map(drop)
}

/// The worker is root's program: for anybody else it ends in an error, and changes nothing.
fn strangers(ctx: &mut Ctx) -> Result<()> {
    ctx.step("an unprivileged user tries");
    let record = "md5sum /etc/kup/record.json";
    let before = ctx.vm.ssh(record)?;
    for command in FORBIDDEN {
        ensure!(!ctx.vm.ssh_ok(&format!("{NOBODY}{command}")), "nobody can `{command}`");
    }
    ensure!(ctx.vm.ssh(record)? == before, "the record has changed");
    Ok(())
}
