//! Encrypted images: readable for the update's own kernels alone, there and back, and for nobody who has the disk.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use super::fallback::{Start, Trouble};
use super::update::{fill, update_filled};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{self, STAGED, SYSTEMD_BOOT, UNITS};
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "encryption",
    about: "encrypted images: a way there, a way back by kexec, and a power cut that costs the services their state",
    from: STAGED,
    all_only: true,
    run,
};

/// The same where a TPM keeps the key.
pub const TPM: Scenario = Scenario {
    name: "encryption-tpm",
    about: "encrypted images on a machine with a TPM: the new kernel panics, and the old one has the services' state",
    from: SYSTEMD_BOOT,
    all_only: true,
    run: tpm,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
/// What encryption needs, and what systemd speaks to a TPM with.
const TPM_PACKAGES: &str =
    "cryptsetup-bin libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64 libtss2-tcti-device0t64";
const SETTINGS: &str = "Encryption = true\n";
/// On the way back the images are decrypted and not mounted: what somebody leaves who is killed between the two.
const HALFWAY: &str = "[Service]\nExecStartPre=/bin/sh -c 'test $(uname -r) = OLD || exit 0; \
    /usr/libexec/kup/kup-worker netlock && umount /var/lib/kup/images && ls /dev/mapper/kup-* && echo halfway'\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    ctx.step("without cryptsetup it is refused");
    ctx.vm.put_bytes(SETTINGS.as_bytes(), "/etc/kup/kup.toml")?;
    let out = ctx.vm.try_ssh("kup check", Duration::from_secs(120))?;
    ensure!(out.code == 3 && out.stdout.contains("encryption.tools"), "kup check ({}): {}", out.code, out.stdout);
    guest::install_more(&ctx.vm, "cryptsetup-bin")?;
    let check = ctx.vm.ssh("kup check")?;
    ensure!(check.contains("encryption.reset"), "kup check does not tell what a reset means: {check}");
    given_up(ctx)?;
    back(ctx)?;
    there(ctx)?;
    power_cut(ctx)
}

/// An armed update has a key in memory; `kup abort` takes it away.
fn given_up(ctx: &mut Ctx) -> Result<()> {
    ctx.step("armed, and given up");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    let armed = ctx.vm.ssh("findmnt -no SOURCE /var/lib/kup/images; ls /var/lib/kup; cat /proc/sys/vm/nr_hugepages")?;
    ensure!(armed.contains("/dev/mapper/kup-") && armed.contains(".crypt"), "the images are not encrypted: {armed}");
    ctx.vm.ssh("kup abort")?;
    ensure!(!ctx.vm.ssh_ok("ls /dev/mapper/kup-*"), "the encrypted device stays");
    expect_nothing_secret(ctx)
}

fn there(ctx: &mut Ctx) -> Result<()> {
    update_filled(ctx, KEYS)?;
    expect_nothing_secret(ctx)
}

/// A restore that gets stuck: the key goes back with the kexec.
fn back(ctx: &mut Ctx) -> Result<()> {
    let start = Start::new(ctx)?;
    Trouble::StuckRestore.prepare(ctx)?;
    ctx.vm.ssh(&format!("echo '{}' >>/etc/kup/kup.toml", SETTINGS.trim()))?;
    let halfway = HALFWAY.replace("OLD", &ctx.about().old_kernel);
    ctx.vm.ssh("mkdir -p /etc/systemd/system/kup-netlock.service.d")?;
    ctx.vm.put_bytes(halfway.as_bytes(), "/etc/systemd/system/kup-netlock.service.d/halfway.conf")?;
    ctx.step("kup update");
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    Trouble::StuckRestore.happens(ctx)?;
    start.expect_back(ctx)?;
    let begun = ctx.vm.ssh("journalctl -b -o cat -u kup-netlock.service")?;
    ensure!(begun.lines().any(|line| line == "halfway"), "the images were not decrypted halfway: {begun}");
    expect_nothing_secret(ctx)?;
    ctx.vm.ssh(
        "systemctl disable lab-stuck.service && rm -r /etc/systemd/system/lab-stuck.service \
         /etc/systemd/system/kup-netlock.service.d && systemctl daemon-reload",
    )?;
    ctx.vm.put_bytes(SETTINGS.as_bytes(), "/etc/kup/kup.toml").map(drop)
}

/// After a reset the memory that had the key is gone, and the TPM gives it to this machine again.
fn tpm(ctx: &mut Ctx) -> Result<()> {
    guest::install_more(&ctx.vm, TPM_PACKAGES)?;
    let tpm = ctx.vm.try_ssh("systemd-creds has-tpm2", Duration::from_secs(60))?;
    ensure!(tpm.ok(), "the machine has no TPM: {}", tpm.stdout);
    ready::mark(&ctx.vm)?;
    ctx.install_new_kernel()?;
    let start = Start::new(ctx)?;
    Trouble::Panic.prepare(ctx)?;
    ctx.vm.ssh(&format!("echo '{}' >>/etc/kup/kup.toml", SETTINGS.trim()))?;
    let check = ctx.vm.ssh("kup check")?;
    ensure!(!check.contains("encryption.reset"), "kup check does not see the TPM: {check}");
    ctx.step("kup update");
    let _ = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300));
    Trouble::Panic.happens(ctx)?;
    start.expect_back(ctx)?;
    expect_nothing_secret(ctx)
}

/// The disk alone does not give anything away: not even to the machine that it belongs to.
fn power_cut(ctx: &mut Ctx) -> Result<()> {
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    fill(ctx, KEYS)?;
    let boot = ctx.vm.boot_id()?;
    let console = ctx.vm.serial_log().len();
    ctx.vm.put_bytes(format!("{SETTINGS}KernelArguments = \"loglevel=7\"\n").as_bytes(), "/etc/kup/kup.toml")?;
    ctx.step("back to the old kernel, and a power cut on the way");
    let _ = ctx.vm.try_ssh(&format!("kup update --yes --target {old}"), Duration::from_secs(300));
    ctx.eventually(Duration::from_secs(300), |ctx| {
        let begun = ctx.vm.serial_log()[console..].contains(&format!("Linux version {old}"));
        ensure!(begun, "the console does not show the beginning of kernel {old}");
        Ok(())
    })?;
    ctx.vm.power_cut()?;
    ctx.vm.wait_new_boot(&boot, BOOT_LIMIT)?;
    let record = guest::wait_ended(ctx, BOOT_LIMIT)?;
    ctx.expect_kernel(&new)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    for unit in UNITS {
        let why = record["units"][unit]["state"]["cold"]["reason"].as_str().unwrap_or_default();
        ensure!(why.contains("the key of its image is gone"), "{unit} is {}", record["units"][unit]["state"]);
        ensure!(guest::service(&ctx.vm, unit)?.active == "active", "{unit} does not run");
    }
    expect_nothing_secret(ctx)
}

/// The encrypted device itself may stay behind a restored process that uses a copy of a deleted file on it, as the test server
/// does.
fn expect_nothing_secret(ctx: &mut Ctx) -> Result<()> {
    ctx.eventually(Duration::from_secs(60), |ctx| {
        let left = ctx.vm.ssh(
            "ls -d /var/lib/kup/*.crypt /var/lib/kup/*.cred /run/kup/handover/* 2>/dev/null; \
             findmnt -n /var/lib/kup/images; grep -v '^0$' /proc/sys/vm/nr_hugepages; true",
        )?;
        ensure!(left.trim().is_empty(), "left behind: {left}");
        Ok(())
    })
}
