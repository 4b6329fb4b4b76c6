//! GRUB on a machine with UEFI: a way back through the firmware, and then the way there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Trouble, scenario};
use crate::guest;
use crate::ready::{self, SYSTEMD_BOOT, UNITS};
use crate::runner::context::Ctx;
use crate::scenario::Scenario;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    from: SYSTEMD_BOOT,
    ..scenario(
        "fallback-grub-uefi",
        "the new kernel panics on a machine with UEFI and GRUB; the next attempt goes well, and the new kernel boots by default",
        run,
    )
};

/// What the other image has as well.
const SETTINGS: &str = include_str!("../../../image/files/etc/default/grub.d/50-lab.cfg");
/// systemd-boot, as it went, has had kernel-install remove its entries, and with them what depmod(8) makes. The firmware has no
/// entry of its own for either: it finds what lies at the place for removable disks.
const INSTALL: &str = "depmod && rm -rf /boot/efi/loader /boot/efi/EFI /boot/efi/$(cat /etc/machine-id) && \
    grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram && update-grub";

fn run(ctx: &mut Ctx) -> Result<()> {
    with_grub(ctx)?;
    ready::mark(&ctx.vm)?;
    ctx.install_new_kernel()?;
    super::run(ctx, Trouble::Panic)?;
    ctx.step("the next attempt");
    // Not all of them are enabled, and the machine was rebooted.
    ctx.vm.ssh(&format!("rm /etc/kup/kup.toml; systemctl start {}", UNITS.join(" ")))?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    let new = ctx.about().new_kernel.clone();
    guest::reboot(ctx, &new)
}

/// Puts GRUB in the place of systemd-boot, and boots through it.
fn with_grub(ctx: &mut Ctx) -> Result<()> {
    ctx.step("GRUB takes the place of systemd-boot");
    ctx.vm.ssh("DEBIAN_FRONTEND=noninteractive apt-get -q purge -y systemd-boot systemd-boot-efi")?;
    ctx.vm.ssh("mkdir -p /etc/default/grub.d /boot/grub")?;
    ctx.vm.put_bytes(SETTINGS.as_bytes(), "/etc/default/grub.d/50-lab.cfg")?;
    guest::install_more(&ctx.vm, "grub-efi-amd64")?;
    let out = ctx.vm.try_ssh(INSTALL, Duration::from_secs(300))?;
    crate::sh::check(INSTALL, out)?;
    let old = ctx.about().old_kernel.clone();
    guest::reboot(ctx, &old)?;
    ensure!(ctx.vm.ssh_ok("test -d /sys/firmware/efi && grep -q BOOT_IMAGE= /proc/cmdline"), "GRUB has not booted it");
    ctx.vm.ssh("kup check || test $? = 3").map(drop).context("kup check")
}
