//! Images hold secrets, and root believes the record: both are root's alone at every moment of an update.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::fill;
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "security",
    about: "unprivileged users against files and programs; modes of images and record watched through a whole update",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
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
    fill(ctx, KEYS)?;
    ctx.vm.put_bytes(WATCH.as_bytes(), "/usr/local/bin/lab-security")?;
    ctx.vm.put_bytes(UNIT.as_bytes(), "/etc/systemd/system/lab-security.service")?;
    ctx.vm.ssh(
        "systemctl daemon-reload && systemctl enable --now lab-security.service && kup update --yes --stage-only",
    )?;
    strangers(ctx)?;
    let boot = ctx.vm.boot_id()?;
    ctx.step("systemctl kexec");
    let _ = ctx.vm.try_ssh("systemctl kexec", Duration::from_secs(300));
    let record = guest::switched(ctx, &boot)?;
    guest::expect_done(&record, &UNITS)?;
    expect_no_leftovers(ctx)?;
    strangers(ctx)?;
    ctx.step("what was seen meanwhile");
    ctx.vm.ssh("systemctl disable --now lab-security.service")?;
    for boot in [boot, ctx.vm.boot_id()?] {
        let seen = ctx.vm.ssh(&format!("cat /var/log/lab-security.{boot}"))?;
        ensure!(!seen.contains("BAD"), "{seen}");
        let images =
            seen.split("'images': ").nth(1).and_then(|rest| rest.split([',', '}']).next()).context("no count")?;
        ensure!(images.trim().parse::<u32>()? > 10, "the watch saw no images: {seen}");
        ctx.step(seen.trim());
    }
    Ok(())
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
