//! After an update, units and the machine are ordinary ones again.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Scenario;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "afterwards",
    about: "restored units restart, stop, start and reload as usual; nothing of the update is left; a reboot is a reboot",
    from: STAGED,
    all_only: false,
    run,
};

fn run(ctx: &mut Ctx) -> Result<()> {
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    expect_no_leftovers(ctx)?;
    ctx.step("reload, restart, stop, start");
    ctx.vm.ssh("systemctl reload nginx.service && systemctl daemon-reload")?;
    for unit in UNITS {
        let was = guest::service(&ctx.vm, unit)?;
        ctx.vm.ssh(&format!("systemctl restart {unit}"))?;
        let is = guest::service(&ctx.vm, unit)?;
        ensure!(is.active == "active" && is.main_pid != was.main_pid, "{unit} was {was:?} and is {is:?}");
        ctx.vm.ssh(&format!("systemctl stop {unit}"))?;
        ensure!(guest::service(&ctx.vm, unit)?.main_pid == 0, "{unit} still has a main process");
        ctx.vm.ssh(&format!("systemctl start {unit} && systemctl is-active {unit}"))?;
    }
    let new = ctx.about().new_kernel.clone();
    guest::reboot(ctx, &new)?;
    ctx.vm.ssh(&format!("systemctl is-active {}", UNITS.join(" ")))?;
    expect_no_leftovers(ctx)
}

/// Nothing of an ended update may be left: drop-ins, images, rules, a loaded kernel, a pin, processes.
pub fn expect_no_leftovers(ctx: &mut Ctx) -> Result<()> {
    expect_nothing_left_but_the_pin(ctx)?;
    ensure!(!ctx.vm.ssh_ok("test -e /etc/default/grub.d/zz-kup.cfg"), "a boot loader pin is left");
    Ok(())
}

/// What an update makes use of and must not leave, however it ends, and how one looks for it. What `kup check` knows and what
/// was asked for stays in /run/kup; so does an encrypted device that a restored process still uses a file of, until it ends.
const TRACES: [(&str, &str); 9] = [
    ("drop-ins", "find /run/systemd -name '*kup-restore*' -o -name '*kup-checkpoint*' -o -name '*kup-*order*'"),
    ("images", "find /var/lib/kup/images -mindepth 1; findmnt -n /var/lib/kup/images"),
    ("network rules", "nft list tables | grep -i -e kup -e criu"),
    ("a loaded kernel", "grep -x 1 /sys/kernel/kexec_loaded"),
    (
        "files",
        "ls -d /var/lib/kup/*.crypt /var/lib/kup/key.cred /var/lib/kup/.kup-sample /etc/kup/*.ballast /etc/kup/.*.new",
    ),
    ("weights of control groups", "find /run/kup/weights -type f"),
    (
        "weights of PID 1 and the journal",
        "cd /sys/fs/cgroup && grep -vx 100 init.scope/cpu.weight system.slice/systemd-journald.service/cpu.weight",
    ),
    ("memory set aside", "ls -d /run/kup/memory* /run/kup/handover* /run/kup/initrd /run/kup/canary"),
    (
        "encrypted devices",
        "for d in /dev/mapper/kup-*; do test -e $d && ! dmsetup info $d | grep -qi deferred && echo $d; done",
    ),
];

/// Fails where an update that has ended has left any of [`TRACES`], whatever became of its units; the last of them goes a
/// moment after the record says that it has ended. All in one command: some ask for it often.
pub fn expect_no_traces(ctx: &mut Ctx) -> Result<()> {
    let look =
        |(what, command): &(&str, &str)| format!("{{ {command}; }} 2>/dev/null | head -n 5 | sed 's|^|{what}: |'");
    let script = TRACES.iter().map(look).collect::<Vec<_>>().join("\n");
    ctx.eventually(Duration::from_secs(30), |ctx| {
        let left = ctx.vm.ssh(&script)?;
        ensure!(left.trim().is_empty(), "something of the update is left: {left}");
        Ok(())
    })
}

/// What GRUB boots by default, and the settings that say so.
pub fn grub_default(ctx: &Ctx) -> Result<String> {
    ctx.vm.ssh("grep -h 'set default=' /boot/grub/grub.cfg; ls /etc/default/grub.d")
}

/// The same after an update to `kernel`: an older one that was blessed is GRUB's default only by a setting, which stays.
pub fn expect_nothing_left_of_update_to(ctx: &mut Ctx, kernel: &str) -> Result<()> {
    if ctx.about().new_kernel == kernel { expect_no_leftovers(ctx) } else { expect_nothing_left_but_the_pin(ctx) }
}

/// The same after an update that fell back: the old kernel stays the default.
pub fn expect_nothing_left_but_the_pin(ctx: &mut Ctx) -> Result<()> {
    ctx.step("looking for leftovers");
    // The record says that an update has ended before the last of it is cleared away.
    ctx.eventually(Duration::from_secs(60), |ctx| {
        let unwiped = "test -e /etc/kup/record.json && ! grep -q '\"wiped\": true' /etc/kup/record.json";
        ensure!(!ctx.vm.ssh_ok(unwiped), "the images are not wiped");
        Ok(())
    })?;
    expect_no_traces(ctx)?;
    let failed = ctx.vm.ssh("systemctl list-units --failed --plain --no-legend")?;
    ensure!(failed.trim().is_empty(), "units have failed: {failed}");
    guest::until(Duration::from_secs(60), "kup's processes are gone", || {
        !ctx.vm.ssh_ok("pgrep -x 'kupd|kup-worker|kup-placeholder|criu'")
    })
}
