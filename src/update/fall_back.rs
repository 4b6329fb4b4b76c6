//! From the new kernel back to the old one while no unit has been resumed: the images are as good as they were, and the
//! old kernel restores them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::restore_all::end_tasks;
use super::{Record, TargetKernel, encryption, ram};
use crate::config::Settings;
use crate::kernel;
use crate::kernel::cmdline::{Direction, Ours};
use crate::paths::Paths;
use crate::systemd::Systemd;

/// Ends what is left of the units and goes down, to the old kernel by kexec, or where that cannot be by a reboot, whose
/// boot loader is pinned to it.
///
/// # Errors
/// When the shutdown cannot be started; the record has not been changed then.
pub fn leave(paths: &Paths, systemd: &Systemd, record: &Record) -> Result<()> {
    tracing::error!("update {} goes back to kernel {}", record.id, record.source);
    // Half-restored tasks may still be there, frozen, and would only hold the shutdown up.
    for name in record.units.iter().filter(|(_, u)| u.state.may_resume()).map(|(name, _)| name) {
        end_tasks(systemd, name);
    }
    let verb = match load_source(paths, record) {
        Ok(()) => "kexec",
        Err(e) => {
            tracing::warn!("{e:#}; the machine reboots instead");
            "reboot"
        }
    };
    let output = Command::new("systemctl").args(["--no-wall", "--no-block", verb]).output();
    let output = output.context("cannot start systemctl")?;
    if !output.status.success() {
        bail!("systemctl {verb}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Loads the kernel that the update came from, with the words that it was booted with: those of the target may be what is
/// wrong with it.
fn load_source(paths: &Paths, record: &Record) -> Result<()> {
    let installed = kernel::discover(paths)?;
    let source = installed.into_iter().find(|k| k.release == record.source);
    let source = source.with_context(|| format!("kernel {} is not installed any more", record.source))?;
    let source = TargetKernel::from(source);
    let secret = encryption::words(record);
    let memory = ram::words(record);
    let settings = Settings::load(paths)?;
    let mut extra = kernel::cmdline::common(&settings.kernel_arguments, &record.cmdline);
    extra.extend(secret.iter().chain(&memory).map(String::as_str));
    let words = Ours { direction: Direction::Back, id: &record.id, pid_floor: record.pid_floor, extra: &extra };
    let cmdline = kernel::cmdline::make(&record.cmdline, &source.image, &words)?;
    Ok(kernel::kexec::load(paths, &source, &cmdline)?)
}
