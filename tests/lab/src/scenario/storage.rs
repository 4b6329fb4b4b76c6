//! Disks that are full, broken or read-only, at every moment where an update needs them: it is refused or given up, names
//! what is wrong, and the services run on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::update::{expect_running, fill, verify};
use crate::client::memcached::Keys;
use crate::guest::{self, Service};
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::sh::Output;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "storage",
    about: "full disks, I/O errors, a read-only root, a full /boot, lost initrds, a directory of somebody else's",
    from: STAGED,
    all_only: true,
    run,
};

/// What [`Start`] writes.
pub const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(300);
/// Takes every byte of the file system that a path is on, those for root included.
const FILL: &str = "fill() { head -c 200G /dev/zero >$1/fill; head -c 200G /dev/zero >$1/fill2; }; fill";

fn run(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    let small = "cd /srv && truncate -s 400M disk && mkfs.ext4 -q disk && modprobe loop && losetup /dev/loop7 disk && \
                 echo '0 819200 linear /dev/loop7 0' | dmsetup create lab";
    ctx.vm.ssh(small)?;
    read_only(ctx, &start)?;
    refused(ctx, &start)?;
    full_boot(ctx, &start)?;
    for (step, then, undo, says) in [
        (
            "the disk of the images is full when they are written",
            format!("{FILL} /var/lib/kup 2>/dev/null || true"),
            "true",
            "No space left on device",
        ),
        (
            "the disk of the images breaks",
            "dmsetup suspend lab && echo '0 819200 error' | dmsetup reload lab && dmsetup resume lab".into(),
            "echo '0 819200 linear /dev/loop7 0' | dmsetup reload lab; dmsetup suspend lab; dmsetup resume lab",
            "rror",
        ),
    ] {
        ctx.step(step);
        ctx.vm
            .ssh("mkfs.ext4 -q -F /dev/mapper/lab && mount /dev/mapper/lab /var/lib/kup && chmod 700 /var/lib/kup")?;
        start.expect_aborted(ctx, &then, says)?;
        ctx.vm.ssh(&format!("{undo}; umount -l /var/lib/kup"))?;
    }
    ctx.step("the root file system is full when the update begins its end");
    start.expect_aborted(ctx, &format!("{FILL} / 2>/dev/null || true"), "No space left on device")?;
    ctx.vm.ssh("rm -f /fill /fill2")?;
    for (release, what) in [(&old, "the way back"), (&new, "the target")] {
        ctx.step(&format!("the initrd of {what} is gone before the switch"));
        let away = format!("mv /boot/initrd.img-{release} /root/");
        start.expect_aborted(ctx, &away, &format!("kernel {release}, {what}, has lost its initrd"))?;
        ctx.vm.ssh(&format!("mv /root/initrd.img-{release} /boot/"))?;
    }
    ctx.step("when all is well again, so is kup");
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    ctx.expect_kernel(&new)?;
    verify(ctx, KEYS)
}

/// A root file system that the kernel has made read-only stays so until a reboot: orphans on it are not cleaned up.
fn read_only(ctx: &mut Ctx, start: &Start) -> Result<()> {
    ctx.step("the root file system is read-only");
    ctx.vm.savevm("storage")?;
    ctx.vm.ssh("echo u >/proc/sysrq-trigger; sleep 3")?;
    let out = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
    expect_failed(&out, "ead-only")?;
    start.expect_untouched(ctx)?;
    ctx.vm.loadvm("storage")?;
    ctx.vm.delvm("storage")
}

/// What is wrong before an update is refused before anything is touched.
fn refused(ctx: &mut Ctx, start: &Start) -> Result<()> {
    let initrd = format!("/boot/initrd.img-{}", ctx.about().new_kernel);
    let troubles = [
        ("the root file system is full", format!("{FILL} / 2>/dev/null || true"), "rm -f /fill /fill2", "pace"),
        (
            "kup's directory is open to others",
            "kup status; chmod 770 /var/lib/kup".into(),
            "chmod 700 /var/lib/kup",
            "has mode 770",
        ),
        ("the target has no initrd", format!("mv {initrd} /root/"), "mv /root/initrd.img-* /boot/", "has no initrd"),
    ];
    for (step, trouble, undo, says) in troubles {
        ctx.step(step);
        ctx.vm.ssh(&trouble)?;
        let out = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
        ctx.vm.ssh(undo)?;
        expect_failed(&out, says)?;
        start.expect_untouched(ctx)?;
    }
    Ok(())
}

/// GRUB's menu cannot be written.
fn full_boot(ctx: &mut Ctx, start: &Start) -> Result<()> {
    ctx.step("/boot is full");
    let menu = "md5sum /boot/grub/grub.cfg; ls /etc/default/grub.d";
    ctx.vm.ssh(
        "mkfs.ext4 -q -F -m 0 /dev/mapper/lab && mount /dev/mapper/lab /mnt && cp -a /boot/. /mnt/ && umount /mnt",
    )?;
    ctx.vm.ssh("mount /dev/mapper/lab /boot")?;
    let before = ctx.vm.ssh(menu)?;
    ctx.vm.ssh(&format!("{FILL} /boot 2>/dev/null || true"))?;
    let out = ctx.vm.try_ssh("kup update --yes", LIMIT)?;
    ensure!(ctx.vm.ssh(menu)? == before, "the boot loader's menu changed");
    ctx.vm.ssh("umount /boot")?;
    expect_failed(&out, "boot loader cannot be pinned")?;
    start.expect_untouched(ctx)
}

fn expect_failed(out: &Output, says: &str) -> Result<()> {
    let said = format!("{}{}", out.stdout, out.stderr);
    ensure!([1, 3, 6, 7].contains(&out.code), "kup update ended with {}: {said}", out.code);
    ensure!(said.contains(says), "kup update does not say '{says}': {said}");
    Ok(())
}

/// How it was before.
pub struct Start {
    services: Vec<Service>,
    boot: String,
}

impl Start {
    /// Fills the services and looks.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        Ok(Self { services: fill(ctx, KEYS)?, boot: ctx.vm.boot_id()? })
    }

    /// An update that is armed, and meets `trouble` before its switch, is given up and says why.
    pub fn expect_aborted(&self, ctx: &mut Ctx, trouble: &str, says: &str) -> Result<()> {
        ctx.vm.ssh("kup update --yes --stage-only")?;
        ctx.vm.ssh(trouble)?;
        ctx.vm.ssh("systemctl kexec")?;
        let record: Value = guest::wait_ended(ctx, LIMIT)?;
        ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
        let reason = record["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(says), "the reason is {reason:?}");
        self.expect_untouched(ctx)
    }

    /// No service noticed anything, and nothing is armed.
    fn expect_untouched(&self, ctx: &mut Ctx) -> Result<()> {
        ctx.eventually(Duration::from_secs(60), |ctx| {
            let loaded = ctx.vm.ssh("cat /sys/kernel/kexec_loaded")?;
            ensure!(loaded.trim() == "0", "a kernel is loaded");
            let jobs = ctx.vm.ssh("systemctl list-jobs --no-legend --plain")?;
            ensure!(jobs.trim().is_empty(), "jobs are queued: {jobs}");
            Ok(())
        })?;
        ensure!(ctx.vm.boot_id()? == self.boot, "the machine went down");
        expect_running(ctx, &self.services)?;
        verify(ctx, KEYS).context("a service has lost something")
    }
}
