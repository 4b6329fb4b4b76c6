//! Which memory of a unit was in huge pages, beside its images: a restore brings it page by page, and makes such again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::inspect::UnitProcs;
use crate::store::WINDOW;
use crate::sys::pagescan;

/// Name of the list in a unit's image directory.
const NAME: &str = "huge.json";

/// First address and the one behind the last of each range, by PID.
type Ranges = BTreeMap<i32, Vec<(u64, u64)>>;

/// Lists it for the frozen unit. Where the kernel does not tell (before Linux 6.7), there is no list, and khugepaged finds in
/// time what is worth it.
pub fn note(procs: &UnitProcs, images: &Path) {
    let listed = procs.processes.iter().filter(|p| !p.is_zombie()).map(|process| {
        let pagemap = File::open(format!("/proc/{}/pagemap", process.pid))?;
        let large = process.mappings.iter().filter(|m| m.len() >= WINDOW);
        let ranges = large.map(|m| pagescan::huge(&pagemap, m.start..m.end)).collect::<io::Result<Vec<_>>>()?;
        Ok((process.pid, ranges.concat().into_iter().map(|r| (r.start, r.end)).collect()))
    });
    let written = listed.collect::<io::Result<Ranges>>().and_then(|ranges| write(ranges, images));
    if let Err(e) = written {
        tracing::debug!("huge pages are not listed: {e}");
    }
}

fn write(mut ranges: Ranges, images: &Path) -> io::Result<()> {
    ranges.retain(|_, ranges| !ranges.is_empty());
    fs::write(images.join(NAME), serde_json::to_vec(&ranges)?)
}

/// What [`note`] has listed; nothing where there is no list that can be read.
pub fn read(images: &Path) -> Vec<(i32, Range<u64>)> {
    let ranges: Ranges = fs::read(images.join(NAME))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).inspect_err(|e| tracing::warn!("{NAME}: {e}")).ok())
        .unwrap_or_default();
    ranges.into_iter().flat_map(|(pid, all)| all.into_iter().map(move |(start, end)| (pid, start..end))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Mapping, Process};

    #[test]
    fn what_is_noted_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_empty());
        let ranges = [(7, vec![(WINDOW, 3 * WINDOW), (8 * WINDOW, 9 * WINDOW)]), (8, vec![]), (9, vec![(0, WINDOW)])];
        write(ranges.into_iter().collect(), dir.path()).unwrap();
        assert_eq!(read(dir.path()), [(7, WINDOW..3 * WINDOW), (7, 8 * WINDOW..9 * WINDOW), (9, 0..WINDOW)]);
        fs::write(dir.path().join(NAME), "{\"7\": 8}").unwrap();
        assert!(read(dir.path()).is_empty(), "it is no reason not to restore");
    }

    #[test]
    fn a_process_that_is_gone_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let mappings = vec![Mapping { start: 0, end: 4 * WINDOW, ..Mapping::default() }];
        let gone = Process { pid: i32::MAX, mappings, ..Process::default() };
        note(&UnitProcs { processes: vec![gone], ..UnitProcs::default() }, dir.path());
        assert!(read(dir.path()).is_empty());
    }
}
