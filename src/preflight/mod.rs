//! Preflight: what can be preserved on this machine, and why not where not. One file per question; nothing is touched,
//! but for the canary, a process of our own that is dumped and restored.

pub mod canary;
mod finding;
mod machine;
mod needs;
mod storage;
mod unit;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use finding::{Finding, Report, Severity};
pub use needs::Needs;
pub use unit::NOT_RUNNING;

use crate::config::Settings;
use crate::inspect::{self, UnitProcs};
use crate::paths::Paths;
use crate::unit::{PreserveSpec, Storage, UnitError, UnitFile, UnitName};
use crate::update::ram;

/// Helpers of ExecStartPost= and the like may run beside the main process for a while.
const HELPERS_GO_WITHIN: Duration = Duration::from_secs(2);

/// Checks the machine and `units`, or all marked units where there are none, for an update to the kernel `target`, or the
/// one that an update would choose.
///
/// # Errors
/// When the machine cannot be looked at; what stands in the way of an update is in the report.
pub fn run(paths: &Paths, settings: &Settings, units: &[UnitName], target: Option<&str>) -> Result<Report> {
    let mut report = Report::default();
    let host = unit::Host::read(paths, settings)?;
    let (mut needs, mut wants) = (Needs::default(), Vec::new());
    for (name, loaded) in load(paths, units, &mut report) {
        let findings = match loaded {
            Ok((file, spec)) => match settled(paths, &name) {
                Ok(procs) => {
                    let findings = unit::check(&unit::View { unit: &file, spec: &spec, procs: &procs, host: &host });
                    // What cannot be preserved has no image, even where its restart is accepted; nor has what does not run.
                    if !findings.iter().any(|f| f.severity == Severity::Blocker || f.id == NOT_RUNNING) {
                        needs.add(&procs, &spec, settings);
                        let storage = ram::storage(&spec, settings);
                        if storage != Storage::Disk {
                            wants.push((name.clone(), storage, procs.image_size()));
                        }
                    }
                    findings
                }
                Err(e) => vec![Finding::blocker("unit.unreadable", format!("cannot look at its processes: {e}"))],
            },
            Err(e) => vec![Finding::blocker("unit.unreadable", e.to_string())],
        };
        report.units.insert(name, findings);
    }
    machine::check(paths, settings, target, &needs, &mut report);
    storage::ask(paths, settings, &wants, &needs, &mut report);
    Ok(report)
}

type Loaded = BTreeMap<UnitName, Result<(UnitFile, PreserveSpec), UnitError>>;

fn load(paths: &Paths, units: &[UnitName], report: &mut Report) -> Loaded {
    if !units.is_empty() {
        let one = |name: &UnitName| {
            let file = crate::unit::load(paths, name)?;
            let spec = PreserveSpec::of(&file)?;
            Ok((file, spec))
        };
        return units.iter().map(|name| (name.clone(), one(name))).collect();
    }
    let marked = crate::unit::scan(paths);
    let broken = marked.errors.iter().map(|e| Finding::blocker("unit.mark", format!("a mark cannot be read: {e}")));
    report.machine.extend(broken);
    marked.units.into_iter().map(|(file, spec)| (file.name.clone(), Ok((file, spec)))).collect()
}

/// The unit, after processes outside its main tree had time to go, and the last of its memory to come.
fn settled(paths: &Paths, name: &UnitName) -> Result<UnitProcs, inspect::InspectError> {
    let deadline = Instant::now() + HELPERS_GO_WITHIN;
    loop {
        let mut procs = inspect::unit(name)?;
        procs.look_for_missing(paths)?;
        let settled = procs.outside_tree().is_empty() && procs.missing() == 0;
        if !procs.service.is_active() || settled || Instant::now() > deadline {
            return Ok(procs);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// `a, b, c and 4 more`: a finding is one sentence, however many things it is about.
fn names<T: Into<String>>(all: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 4;
    let mut unique: Vec<String> = Vec::new();
    for name in all {
        let name = name.into();
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    let more = unique.len().saturating_sub(SHOWN);
    let shown = unique[..unique.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(names(["a", "b", "a"]), "a, b");
        assert_eq!(names(["a", "b", "c", "d", "e", "f"]), "a, b, c, d and 2 more");
        assert_eq!(names(Vec::<String>::new()), "");
    }
}
