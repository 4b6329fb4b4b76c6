//! A checkpoint goes out as plain images of CRIU before it is restored, comes back, and is what the service lives on from.

use anyhow::{Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::update_filled;
use crate::client::memcached::Keys;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "plain",
    about: "kup export and kup import between switch and restore, before there is a bus; refused at any other time",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 4 << 10, size: 8 << 10 };
/// What the restore waits for.
const BETWEEN: &str = "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=kup.txn\nAfter=kup-netlock.service\n\
    Before=kup-restore.service\nRequiresMountsFor=/root /var/lib/kup\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh -ec '\
    for unit in memcached redis-server; do \
    kup export $$unit /root/plain-$$unit; stat -c %%a /root/plain-$$unit; ls /root/plain-$$unit; \
    kup import $$unit /root/plain-$$unit; kup export $$unit /root/again-$$unit; \
    diff -r /root/plain-$$unit /root/again-$$unit; done; \
    kup import memcached /root/plain-redis-server || true; echo all done'\n\
    [Install]\nWantedBy=kup-restore.service\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    refused(ctx, "no update is under way")?;
    ctx.vm.put_bytes(BETWEEN.as_bytes(), "/etc/systemd/system/lab-between.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-between.service")?;
    update_filled(ctx, KEYS)?;
    let said = ctx.vm.ssh("journalctl -b -u lab-between.service -o cat")?;
    ensure!(said.contains("all done"), "not all was done between switch and restore: {said}");
    for word in ["700", "pstree.img", "pages-", "has other processes than the checkpoint"] {
        ensure!(said.contains(word), "'{word}' is not in {said}");
    }
    expect_no_leftovers(ctx)?;
    refused(ctx, "at most once")?;
    ctx.vm.ssh("rm -r /root/plain-* /root/again-*").map(drop)
}

/// Neither verb has anything to do; kup says why.
fn refused(ctx: &mut Ctx, why: &str) -> Result<()> {
    ctx.step("kup export and kup import when there is nothing to restore");
    let export = ctx.vm.try_ssh("kup export memcached /root/none", BOOT_LIMIT)?;
    ensure!(export.code == 1 && !ctx.vm.ssh_ok("test -e /root/none"), "kup export ends with {}", export.code);
    let import = ctx.vm.try_ssh("kup import memcached /root", BOOT_LIMIT)?;
    let said = &import.stderr;
    ensure!(import.code == 1 && said.contains(why), "kup import ends with {}: {said}", import.code);
    Ok(())
}
