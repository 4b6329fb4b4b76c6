//! Can the memory of units that want it so stay in RAM over the switch?

use super::machine::{cmdline, memory};
use super::{Finding, Needs, Report};
use crate::config::Settings;
use crate::kernel::taken;
use crate::paths::Paths;
use crate::unit::{Storage, UnitName};
use crate::update::ram;

/// A unit that wants it, and the bytes that it has.
pub type Want = (UnitName, Storage, u64);

/// Says so with each of the units; `needs` are those of all units.
pub fn ask(paths: &Paths, settings: &Settings, wants: &[Want], needs: &Needs, report: &mut Report) {
    if wants.is_empty() {
        return;
    }
    let need = wants.iter().map(|(_, _, size)| ram::need(*size)).fold(0, u64::saturating_add);
    // The old kernel has what is set aside and what the checkpoint takes at the same time, the new one what came over and what
    // the restore takes.
    let target = report.target.as_deref();
    let (before, after) = memory::takes(paths, settings, needs, target);
    let line = target.map_or(0, |target| cmdline::length(paths, settings, target));
    let verdict = verdict(paths, target, line, need, before.max(after));
    for (name, storage, size) in wants {
        report.units.entry(name.clone()).or_default().push(finding(*storage, *size, &verdict));
    }
}

/// Why it cannot be.
fn verdict(paths: &Paths, target: Option<&str>, line: usize, need: u64, beside: u64) -> Result<(), String> {
    // Without one there is no update; that is said elsewhere.
    target.map_or(Ok(()), |target| ram::possible(paths, target)).map_err(|e| format!("{e:#}"))?;
    taken::most_runs(line).map_err(|e| format!("{e:#}"))?;
    fits(need, beside, taken::available(paths).map_err(|e| format!("{e:#}"))?)
}

/// Is there room for `need` bytes, and `beside` them for the rest of the update?
fn fits(need: u64, beside: u64, free: u64) -> Result<(), String> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match taken::wanted(need, beside) {
        wanted if wanted > free => Err(format!(
            "{} MiB of memory would have to be free for it and for the update's own work, {} MiB are",
            mib(wanted),
            mib(free)
        )),
        _ => Ok(()),
    }
}

fn finding(storage: Storage, size: u64, verdict: &Result<(), String>) -> Finding {
    let mib = size.div_ceil(1 << 20);
    match (storage, verdict) {
        (Storage::Ram, Err(why)) => {
            let fix = "free some memory, or set KUPStorage=auto, which takes the disk instead";
            Finding::blocker("memory.store", format!("its memory cannot stay in RAM over the switch: {why}")).fix(fix)
        }
        (_, Err(why)) => {
            Finding::note("memory.store", format!("its memory ({mib} MiB) goes over the switch on disk: {why}"))
        }
        (_, Ok(())) => Finding::note("memory.store", format!("its memory ({mib} MiB) stays in RAM over the switch")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn who_insists_is_refused() {
        let no = Err("there is none".to_string());
        let severity = |storage, verdict| finding(storage, 5 << 20, verdict).severity;
        assert_eq!(severity(Storage::Ram, &no), Severity::Blocker);
        assert_eq!(severity(Storage::Auto, &no), Severity::Note);
        assert!(
            finding(Storage::Auto, 5 << 20, &no)
                .message
                .contains("(5 MiB) goes over the switch on disk: there is none")
        );
        assert_eq!(severity(Storage::Ram, &Ok(())), Severity::Note);
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let mut report = Report::default();
        let wants = [("a.service".parse().unwrap(), Storage::Ram, 1 << 30)];
        ask(&paths, &Settings::default(), &wants, &Needs::default(), &mut report);
        assert!(report.blocked_units().len() == 1, "{report:?}");
    }

    #[test]
    fn what_the_checkpoint_takes_has_to_fit_beside_it() {
        const MIB: u64 = 1 << 20;
        assert_eq!(fits(1000 * MIB, 0, 1196 * MIB), Ok(()), "something is left to the machine in any case");
        assert_eq!(fits(1000 * MIB, 150 * MIB, 1196 * MIB), Ok(()), "and the update works in that");
        assert!(fits(1000 * MIB, 0, 1195 * MIB).is_err());
        let why = fits(1000 * MIB, 300 * MIB, 1196 * MIB).unwrap_err();
        assert!(why.contains("1304 MiB") && why.contains("1196 MiB are"), "{why}");
    }

    #[test]
    fn the_needs_of_all_units_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(paths.at("/proc")).unwrap();
        std::fs::write(paths.at("/proc/meminfo"), "MemAvailable: 2097152 kB\n").unwrap();
        let severity = |swapped| {
            let mut report = Report::default();
            let needs = Needs { units: 1, swapped, ..Needs::default() };
            ask(
                &paths,
                &Settings::default(),
                &[("a.service".parse().unwrap(), Storage::Ram, 1 << 30)],
                &needs,
                &mut report,
            );
            report.units.into_values().next().unwrap()[0].severity
        };
        assert_eq!((severity(0), severity(1 << 30)), (Severity::Note, Severity::Blocker));
    }
}
