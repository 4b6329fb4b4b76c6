//! Questions about the machine.

mod boot;
pub mod cmdline;
mod criu;
mod encryption;
mod kexec;
mod limits;
pub mod memory;
mod packages;
mod space;
mod system;
mod target;
mod trial;
mod watchdog;

use super::{Finding, Needs, Report};
use crate::config::Settings;
use crate::paths::Paths;

/// Asks every question; `needs` are those of all units.
pub fn check(paths: &Paths, settings: &Settings, asked: Option<&str>, needs: &Needs, report: &mut Report) {
    let running = match crate::kernel::running(paths) {
        Ok(running) => running,
        Err(e) => {
            report.machine.push(Finding::blocker("kernel.unknown", format!("{e:#}")));
            return;
        }
    };
    let (target, findings) = target::ask(paths, asked, &running);
    report.machine.extend(findings);
    report.machine.extend(criu::ask(paths, &running, target.as_deref()));
    report.machine.extend(kexec::ask(paths));
    report.machine.extend(target.as_deref().and_then(|target| cmdline::ask(paths, settings, target)));
    report.machine.extend(boot::ask(paths));
    report.machine.extend(watchdog::ask(paths, settings, target.as_deref()));
    report.machine.extend(trial::ask(paths, settings, needs));
    let deadman_sec = watchdog::limit(paths, settings, target.as_deref());
    report.machine.extend(limits::ask(&Settings { deadman_sec, ..settings.clone() }));
    report.machine.extend(space::ask(paths, settings, needs));
    report.machine.extend(memory::ask(paths, settings, needs, target.as_deref()));
    if settings.encryption {
        report.machine.extend(encryption::ask(paths));
    }
    report.machine.extend(system::ask(paths));
    report.machine.extend(packages::ask(paths));
    report.target = target;
}
