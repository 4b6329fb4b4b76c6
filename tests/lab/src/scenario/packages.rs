//! Kernel packages on a machine whose kup is in no state to answer: they never fail for it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::ready::READY;
use crate::runner::context::Ctx;
use crate::sh::Output;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "packages",
    about: "a kernel package is installed, configured and removed with kup broken, masked or half removed",
    from: READY,
    all_only: false,
    run,
};

/// Unpacking and an initrd, on a slow machine.
const APT_LIMIT: Duration = Duration::from_secs(900);
const KUPD: &str = "/usr/libexec/kup/kupd";

fn run(ctx: &mut Ctx) -> Result<()> {
    let new = ctx.about().new_kernel.clone();
    let (stamp, package) = (format!("/var/lib/kup/pending/{new}"), format!("linux-image-{new}"));
    ctx.vm.ssh("apt-get -q update")?;

    ctx.step("kupd is broken: the kernel is installed, and remembered for later");
    ctx.vm.ssh(&format!("chmod 000 {KUPD}"))?;
    quiet(ctx, &format!("apt-get -q install -y {package}"))?;
    ctx.vm.ssh(&format!("test -e {stamp} && chmod 755 {KUPD}"))?;
    let status = ctx.vm.ssh("kup status")?;
    ensure!(status.contains(&format!("staged kernel:  {new}")), "kupd, whole again, does not know: {status}");
    ensure!(!ctx.vm.ssh_ok(&format!("test -e {stamp}")), "the stamp stays");

    ctx.step("kupd is masked");
    ctx.vm.ssh("systemctl stop kupd; systemctl mask kupd")?;
    quiet(ctx, &format!("dpkg-reconfigure {package}"))?;
    ctx.vm.ssh(&format!("test -e {stamp} && systemctl unmask kupd"))?;

    ctx.step("kup is half removed: its hooks are configuration, and stay");
    ctx.vm.ssh("dpkg --remove kup && test -e /etc/kernel/postinst.d/kup")?;
    quiet(ctx, &format!("dpkg-reconfigure {package}"))?;
    quiet(ctx, &format!("apt-get -q remove -y {package}"))?;

    ctx.step("kup is purged, and comes back");
    ctx.vm.ssh("dpkg --purge kup && ! test -e /etc/kernel/postinst.d/kup && ! test -e /var/lib/kup")?;
    ctx.vm.ssh("dpkg -i /root/kup.deb").context("the package cannot be installed again")?;
    ctx.vm.ssh(&format!("chmod 000 {KUPD}"))?;
    quiet(ctx, &format!("apt-get -q purge -y {package}"))?;
    ctx.vm.ssh(&format!("chmod 755 {KUPD} && kup status")).map(drop)
}

/// The command works, and kup's hooks have nothing to complain of.
fn quiet(ctx: &mut Ctx, command: &str) -> Result<()> {
    let out: Output = ctx.vm.try_ssh(&format!("DEBIAN_FRONTEND=noninteractive {command}"), APT_LIMIT)?;
    let said = format!("{}{}", out.stdout, out.stderr);
    ensure!(out.ok(), "`{command}` ended with {}: {said}", out.code);
    let noise = said.lines().find(|line| line.contains("kup") && (line.contains("not found") || line.contains("rror")));
    ensure!(noise.is_none(), "`{command}` says {noise:?}");
    Ok(())
}
