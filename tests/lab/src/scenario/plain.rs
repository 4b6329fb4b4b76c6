//! A checkpoint goes out as plain images of CRIU before it is restored, comes back, and is what the service lives on from.
//! What went out is what CRIU's own tools take it for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use super::update::update_filled;
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "plain",
    about: "kup export and kup import between switch and restore; crit and criu restore on what was exported",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 4 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(300);
/// Has no sandbox and no connections: CRIU alone can make a process of its images.
const ALONE: &str = "lab-alone.service";
const ALONE_UNIT: &str = "[Service]\nStateDirectory=large\nStandardOutput=null\nStandardError=null\n\
    ExecStart=/usr/bin/python3 /usr/local/bin/large 64\n";
/// Tells the checksum of its memory.
const PROGRAM: &str = include_str!("large.py");
const SUM: &str = "/var/lib/large/sum";
/// What the restore waits for.
const BETWEEN: &str = "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=kup.txn\nAfter=kup-netlock.service\n\
    Before=kup-restore.service\nRequiresMountsFor=/root /var/lib/kup\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -ec '\
    for unit in memcached redis-server lab-alone; do \
    kup export $$unit /root/plain-$$unit; stat -c %%a /root/plain-$$unit; ls /root/plain-$$unit; \
    kup import $$unit /root/plain-$$unit; kup export $$unit /root/again-$$unit; \
    diff -r /root/plain-$$unit /root/again-$$unit; done; \
    kup import memcached /root/plain-redis-server || true; echo all done'\n\
    [Install]\nWantedBy=kup-restore.service\n";

fn run(ctx: &mut Ctx) -> Result<()> {
    refused(ctx, "no update is under way")?;
    ctx.vm.put_bytes(BETWEEN.as_bytes(), "/etc/systemd/system/lab-between.service")?;
    ctx.vm.put_bytes(PROGRAM.as_bytes(), "/usr/local/bin/large")?;
    ctx.vm.put_bytes(ALONE_UNIT.as_bytes(), &format!("/etc/systemd/system/{ALONE}"))?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-between.service")?;
    ctx.vm.ssh(&format!("systemctl start {ALONE} && kup preserve {ALONE}"))?;
    let sum = told(ctx)?;
    update_filled(ctx, KEYS)?;
    let said = ctx.vm.ssh("journalctl -b -u lab-between.service -o cat")?;
    ensure!(said.contains("all done"), "not all was done between switch and restore: {said}");
    for word in ["700", "pstree.img", "pages-", "has other processes than the checkpoint"] {
        ensure!(said.contains(word), "'{word}' is not in {said}");
    }
    expect_no_leftovers(ctx)?;
    refused(ctx, "at most once")?;
    by_hand(ctx, &sum)?;
    crit(ctx)?;
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

/// CRIU makes a process of what was exported, and nothing of kup's is there to help. The unit that came back by kup has to
/// make room for it: its PID is wanted once more.
fn by_hand(ctx: &mut Ctx, sum: &str) -> Result<()> {
    ctx.step("criu restore, by hand");
    let pid = guest::service(&ctx.vm, ALONE)?.main_pid;
    ensure!(pid > 0, "{ALONE} did not come back");
    ctx.vm.ssh(&format!("systemctl stop {ALONE} && ! test -d /proc/{pid} && rm -f {SUM}"))?;
    let dir = "/root/plain-lab-alone";
    let restore = format!(
        "criu restore -d -D {dir} -o criu.log --manage-cgroups=ignore </dev/null >/dev/null 2>&1 || \
         {{ tail -n 20 {dir}/criu.log >&2; exit 1; }}"
    );
    ctx.vm.ssh(&restore).context("CRIU cannot use what was exported")?;
    ctx.vm.ssh(&format!("kill -USR1 {pid}"))?;
    ensure!(told(ctx)? == sum, "its memory has changed");
    ctx.vm.ssh(&format!("kill -KILL {pid}")).map(drop)
}

/// The checksum that the unit of our own has told, once it has.
fn told(ctx: &mut Ctx) -> Result<String> {
    ctx.eventually(LIMIT, |ctx| ctx.vm.ssh(&format!("cat {SUM}")))
}

/// CRIU's tool for images shows who is in them; what it decodes and encodes again, it decodes to the same. One of the two
/// images is CRIU's own, the other one is kup's.
fn crit(ctx: &mut Ctx) -> Result<()> {
    ctx.step("crit");
    guest::install_more(&ctx.vm, "python3-pycriu")?;
    for name in ["memcached", "redis-server"] {
        let (dir, pid) = (format!("/root/plain-{name}"), guest::service(&ctx.vm, name)?.main_pid);
        let shown = ctx.vm.ssh(&format!("crit x {dir} ps"))?;
        let is_main = |line: &str| line.trim_start().starts_with(&pid.to_string()) && line.ends_with(name);
        ensure!(shown.lines().any(is_main), "crit does not show {name} as {pid}: {shown}");
        for image in [format!("core-{pid}.img"), format!("pagemap-{pid}.img")] {
            let there_and_back = format!(
                "cd /root && crit decode -i {dir}/{image} -o again-one && crit encode -i again-one -o again-image && \
                 crit decode -i again-image -o again-other && cmp again-one again-other && grep -c entries again-one"
            );
            ctx.vm.ssh(&there_and_back).with_context(|| format!("crit and {dir}/{image}"))?;
        }
    }
    Ok(())
}
