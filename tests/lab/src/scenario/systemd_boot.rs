//! The main job on a machine with UEFI and systemd-boot: what boots by default at every step of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::{Clients, expect_same, observe, start_services, verify};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{SYSTEMD_BOOT, UNITS};
use crate::runner::context::Ctx;
use crate::vm::Vm;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update-systemd-boot",
    about: "the same as `update` on a machine with UEFI and systemd-boot, with boot counting: pinned, switched, blessed",
    from: SYSTEMD_BOOT,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    ctx.vm.ssh("bootctl status | grep -q 'Product: systemd-boot'").context("systemd-boot did not boot this machine")?;
    // So that the new kernel's entry begins with three tries.
    ctx.vm.ssh("echo 3 >/etc/kernel/tries")?;
    let services = start_services(ctx, KEYS)?;
    ctx.install_new_kernel()?;
    expect(ctx, "installed", None, &new, &format!("{new}+3"))?;
    let before = observe(ctx)?;
    let clients = Clients::start(ctx, KEYS)?;
    ctx.step("kup update --stage-only");
    ctx.vm.ssh("kup update --yes --stage-only")?;
    expect(ctx, "armed", Some(&old), &old, &format!("{new}+3"))?;
    let boot = ctx.vm.boot_id()?;
    ctx.step("systemctl kexec");
    // The shutdown may cut the connection.
    ctx.vm.try_ssh("systemctl kexec", Duration::from_secs(60)).ok();
    let record = guest::switched(ctx, &boot)?;
    guest::expect_done(&record, &UNITS)?;
    ctx.expect_kernel(&new)?;
    expect(ctx, "blessed", None, &new, &new)?;
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)?;
    expect_no_leftovers(ctx)?;
    expect_entries_without_our_words(ctx)?;
    guest::reboot(ctx, &new)?;
    // kernel-install has begun to count again; this boot was systemd-boot's, so that systemd calls it good.
    expect(ctx, "rebooted", None, &new, &new)?;
    removal(ctx)
}

/// Fails unless LoaderEntryDefault names kernel `variable`, kernel `default` is what boots, and the new kernel's entry is
/// the file that ends in `entry`.
fn expect(ctx: &mut Ctx, when: &str, variable: Option<&str>, default: &str, entry: &str) -> Result<()> {
    let id = |release: &str| Ok::<_, anyhow::Error>(format!("{}-{release}.conf", machine_id(&ctx.vm)?));
    let set = ctx.vm.ssh(
        "cat /sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f 2>/dev/null | \
         tail -c +5 | tr -d '\\000'",
    )?;
    let want = variable.map(id).transpose()?.unwrap_or_default();
    ensure!(set == want, "{when}: LoaderEntryDefault is '{set}', expected '{want}'");
    let boots = default_entry(&ctx.vm)?;
    ensure!(boots == id(default)?, "{when}: {boots} boots by default, expected {}", id(default)?);
    let entries = ctx.vm.ssh("ls /boot/efi/loader/entries")?;
    let file = id(entry)?;
    ensure!(entries.lines().any(|l| l == file), "{when}: no entry {file}, but {entries}");
    ctx.step(&format!("{when}: {boots} boots by default, LoaderEntryDefault is '{set}'"));
    Ok(())
}

fn machine_id(vm: &Vm) -> Result<String> {
    Ok(vm.ssh("cat /etc/machine-id")?.trim().to_owned())
}

/// What boots by default, as systemd's own tool sees it.
fn default_entry(vm: &Vm) -> Result<String> {
    let list: serde_json::Value = serde_json::from_str(&vm.ssh("bootctl list --json=short")?)?;
    let entry = list.as_array().into_iter().flatten().find(|e| e["isDefault"] == true);
    Ok(entry.and_then(|e| e["id"].as_str()).context("bootctl knows no default")?.to_owned())
}

/// kernel-install copies the running command line.
fn expect_entries_without_our_words(ctx: &mut Ctx) -> Result<()> {
    ctx.step("the running kernel's entry is made anew");
    ctx.vm.ssh("update-initramfs -u")?;
    let entries = ctx.vm.ssh("cat /boot/efi/loader/entries/*.conf")?;
    ensure!(entries.contains("root=LABEL=kup-root"), "the entries have no command line: {entries}");
    ensure!(!entries.contains("kup.txn") && !entries.contains("ns_last_pid"), "kup's words stay: {entries}");
    Ok(())
}

/// A kernel that an armed update needs is removed: it is given up, and says why.
fn removal(ctx: &mut Ctx) -> Result<()> {
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    ctx.step("the target is removed while an update is armed");
    ctx.vm.ssh(&format!("kup update --yes --stage-only --target {old}"))?;
    expect(ctx, "armed again", Some(&new), &new, &new)?;
    ctx.vm.ssh(&format!("DEBIAN_FRONTEND=noninteractive apt-get -q purge -y linux-image-{old}"))?;
    let record = guest::record(&ctx.vm)?;
    let reason = record["reason"].as_str().unwrap_or_default();
    ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
    ensure!(reason.contains(&format!("kernel {old}, the target, was removed")), "the reason is {reason}");
    expect(ctx, "given up", None, &new, &new)?;
    expect_no_leftovers(ctx)
}
