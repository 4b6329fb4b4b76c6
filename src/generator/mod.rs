//! The systemd generator: turns marks and the record into drop-ins and links, at every boot and reload.
//!
//! Reads only through [`Paths`] and writes only below the directory that it is given, so that it is tested on whole
//! trees. It decides nothing that the record does not say, and emits nothing where nothing is marked or pending.

mod emit;

use std::fs;
use std::io;
use std::path::Path;

use crate::config::Settings;
use crate::inspect::host;
use crate::kernel::cmdline;
use crate::paths::Paths;
use crate::unit::{self, GENERATED, Marked, UnitError};
use crate::update::{Record, ThisBoot};

use emit::Output;

/// Who wants most of kup's units.
const WANTS: &str = "multi-user.target.wants";
/// Mounted when somebody looks; and by what, which an administrator may have masked.
const BINFMT: [&str; 2] = ["proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount"];
/// The first one's conditions, which the second one relies on.
const BINFMT_CONDITIONS: [&str; 2] =
    ["ConditionPathExists=/proc/sys/fs/binfmt_misc/", "ConditionPathIsReadWrite=/proc/sys/"];
/// What a restore waits for in the boot, by way of others even. Most end with their work; the reload that a restore ends with
/// makes all of them ordinary.
const ON_THE_WAY: [&str; 25] = [
    // PID 1, which has the most to do of all, counts as much as all services together else.
    "init.scope",
    // tmpfiles waits until it can be flushed, and tasks wait when they write to it.
    "systemd-journald.service",
    "kmod-static-nodes.service",
    "systemd-fsck-root.service",
    "systemd-modules-load.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-journal-flush.service",
    "systemd-tmpfiles-setup.service",
    // What is mounted for the kernel's own sake: a sandbox is a copy of what is mounted by then.
    "modprobe@.service",
    // Weights count among those of one slice; nothing lasting is in this one.
    "system-modprobe.slice",
    "proc-sys-fs-binfmt_misc.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    // Links have their addresses no sooner than there is a firewall.
    "systemd-network-generator.service",
    "nftables.service",
    "netfilter-persistent.service",
    "ufw.service",
    // A sandbox that is built before its profiles is none.
    "apparmor.service",
];

/// Writes what this boot needs below `normal` (systemd.generator(7)). `log` gets one line for each thing that is wrong
/// and nothing else. After a soft reboot (`soft_reboot`) the kernel is still the same one, and the services were stopped
/// on purpose: nothing is restored then.
///
/// # Errors
/// When a file cannot be written.
pub fn run(paths: &Paths, normal: &Path, soft_reboot: bool, log: &mut dyn FnMut(&str)) -> io::Result<()> {
    let out = Output::new(normal);
    let marked = unit::scan(paths);
    for error in &marked.errors {
        // Other generators may still be writing the unit: that it is not there means nothing yet.
        if !matches!(error, UnitError::NotFound { .. }) {
            log(&error.to_string());
        }
    }
    adjust(&marked, &out)?;
    let transaction = cmdline::transaction(&fs::read_to_string(paths.cmdline()).unwrap_or_default());
    // A boot that an update led to has its PIDs above the floor from its first process on.
    if transaction.is_none() && !(marked.units.is_empty() && marked.templates.is_empty()) {
        out.link("sysinit.target.wants", "kup-pid-floor.service")?;
    }

    let path = paths.record();
    let record = match Record::load(&path) {
        Ok(None) => return Ok(()),
        Ok(Some(record)) => record,
        Err(e) => {
            // Nothing is restored from what cannot be read; settling tells and cleans up, before services go on without it.
            log(&e.to_string());
            for (unit, _) in &marked.units {
                out.after(unit.name.as_str(), ["kup-settle.service"])?;
            }
            return out.link(WANTS, "kup-settle.service");
        }
    };
    let boot_id = fs::read_to_string(paths.at("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let boot = ThisBoot::of(&record, transaction.as_ref(), boot_id.trim());
    match boot {
        ThisBoot::Ordinary => Ok(()),
        ThisBoot::Restore | ThisBoot::FallBack if soft_reboot => out.link(WANTS, "kup-settle.service"),
        ThisBoot::Settle => out.link(WANTS, "kup-settle.service"),
        ThisBoot::Bless => bless(paths, &out, log),
        ThisBoot::Restore => {
            restore(paths, &record, boot, &out)?;
            bless(paths, &out, log)
        }
        ThisBoot::FallBack => {
            out.link("sysinit.target.wants", "kup-pid-floor.service")?;
            restore(paths, &record, boot, &out)
        }
    }
}

/// Adjustments hold from a unit's first start on, so they are there in every boot. A template has them too, for
/// instances that nothing tells of yet.
fn adjust(marked: &Marked, out: &Output) -> io::Result<()> {
    for (unit, spec) in marked.units.iter().chain(&marked.templates) {
        let adjustments = unit::adjustments(unit, spec);
        if !adjustments.is_empty() {
            out.dropin(unit.name.as_str(), GENERATED[0], &emit::adjust(&adjustments))?;
        }
    }
    Ok(())
}

/// The new kernel is assessed, and blessed behind boot-complete.target; or given up, when that takes too long.
fn bless(paths: &Paths, out: &Output, log: &mut dyn FnMut(&str)) -> io::Result<()> {
    let settings = Settings::load(paths).unwrap_or_else(|e| {
        log(&e.to_string());
        Settings::default()
    });
    out.link("boot-complete.target.requires", "kup-assess.service")?;
    // A boot that ends in an emergency shell does not get there, and has nothing else that fails.
    out.link("emergency.target.wants", "kup-settle.service")?;
    out.timeout("kup-bless.service", settings.boot_timeout_sec)?;
    out.link(WANTS, "kup-bless.service")
}

/// Every unit whose image may still be resumed gets a placeholder in its fresh sandbox.
fn restore(paths: &Paths, record: &Record, boot: ThisBoot, out: &Output) -> io::Result<()> {
    out.link("sysinit.target.wants", "kup-netlock.service")?;
    // An initrd of ours has mounted it for writing already.
    let remounted = (!host::root_is_writable(paths)).then_some("systemd-remount-fs.service");
    // Encrypted images are opened by netlock, which takes udev.
    let encrypted = record.handover.as_ref().map(|_| "systemd-udevd.service");
    out.after("kup-netlock.service", remounted.into_iter().chain(encrypted))?;
    // It also writes down that this boot is a way back.
    let locked = (encrypted.is_some() || boot == ThisBoot::FallBack).then_some("kup-netlock.service");
    out.after("kup-restore.service", remounted.into_iter().chain(locked))?;
    out.link("sysinit.target.wants", "kup-links.service")?;
    // Sandboxes wait for it, and its turn comes behind all local file systems, with the first who looks.
    let [automount, mount] = BINFMT;
    out.link(&format!("{automount}.wants"), mount)?;
    out.conditions(mount, &BINFMT_CONDITIONS)?;
    out.link(WANTS, "kup-restore.service")?;
    for unit in ON_THE_WAY {
        out.first(unit)?;
    }
    let units = || record.units.iter().filter(|(_, r)| r.state.may_resume()).map(|(unit, _)| unit);
    // Not all of them are enabled. To start one behind the others would have systemd go through all that it needs again.
    out.wants("kup-restore.service", units().map(|unit| unit.as_str()))?;
    for unit in units() {
        let file = unit::load(paths, unit).ok();
        let dropins = file.iter().flat_map(|f| &f.dropins).filter_map(|p| p.file_name()?.to_str());
        let name = emit::last_name(GENERATED[1], dropins);
        out.dropin(unit.as_str(), &name, &emit::restore(record))?;
    }
    Ok(())
}
