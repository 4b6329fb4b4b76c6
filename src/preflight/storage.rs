//! Can the memory of units that want it so stay in RAM over the switch?

use super::{Finding, Report};
use crate::kernel::taken;
use crate::paths::Paths;
use crate::unit::{Storage, UnitName};
use crate::update::ram;

/// A unit that wants it, and the bytes that it has.
pub type Want = (UnitName, Storage, u64);

/// Says so with each of the units.
pub fn ask(paths: &Paths, wants: &[Want], report: &mut Report) {
    let need = wants.iter().map(|(_, _, size)| ram::need(*size)).sum();
    let verdict = verdict(paths, report.target.as_deref(), need);
    for (name, storage, size) in wants {
        report.units.entry(name.clone()).or_default().push(finding(*storage, *size, &verdict));
    }
}

/// Why it cannot be.
fn verdict(paths: &Paths, target: Option<&str>, need: u64) -> Result<(), String> {
    // Without one there is no update; that is said elsewhere.
    target.map_or(Ok(()), |target| ram::possible(paths, target)).map_err(|e| format!("{e:#}"))?;
    let free = taken::available(paths).map_err(|e| format!("{e:#}"))?;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match taken::wanted(need) {
        wanted if wanted > free => {
            Err(format!("{} MiB of memory would have to be free for it, {} MiB are", mib(wanted), mib(free)))
        }
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
        ask(&paths, &[("a.service".parse().unwrap(), Storage::Ram, 1 << 30)], &mut report);
        assert!(report.blocked_units().len() == 1, "{report:?}");
    }
}
