//! Whether all memory of a frozen unit is in its image: CRIU decides what is dumped, by what the kernel tells it of each page.
//! What it leaves out would be zeros after the switch, and nobody would notice.

use std::fs::File;
use std::ops::Range;

use anyhow::{Context, Result, bail};

use crate::inspect::UnitProcs;
use crate::store::{Extent, Memory, PAGE, Sealed};
use crate::sys::pagescan;

/// Fails unless `memory` has every page of private memory of the unit's processes. Where the kernel does not tell (before
/// Linux 6.7), CRIU is believed.
///
/// # Errors
/// Names the first page that is left out.
pub fn check(procs: &UnitProcs, memory: &Sealed) -> Result<()> {
    for process in procs.processes.iter().filter(|p| !p.is_zombie()) {
        let pid = process.pid;
        let stored = memory.process(pid).with_context(|| format!("nothing is stored of its process {pid}"))?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).context("a process is gone")?;
        // The kernel's own ("[vdso]", "[vvar]") it maps anew.
        for mapping in process.mappings.iter().filter(|m| !m.shared && !m.name.starts_with("[v")) {
            let used = match pagescan::anonymous(&pagemap, mapping.start..mapping.end) {
                Ok(used) => used,
                Err(e) => {
                    tracing::debug!("{pid}: it is not seen what memory there is: {e}");
                    return Ok(());
                }
            };
            if let Some(address) = used.iter().find_map(|range| left_out(stored.extents(), range)) {
                bail!("CRIU has left out memory of its process {pid}, at {address:#x}; try the update again");
            }
        }
    }
    Ok(())
}

/// The first page of `range` that is in none of `extents`, which are in order.
fn left_out(extents: &[Extent], range: &Range<u64>) -> Option<u64> {
    let end = |extent: &Extent| extent.start + extent.pages * PAGE;
    let mut next = range.start;
    for extent in &extents[extents.partition_point(|extent| end(extent) <= range.start)..] {
        if next >= range.end || extent.start > next {
            break;
        }
        next = end(extent);
    }
    (next < range.end).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_counts() {
        let extent = |start: u64, pages: u64, lazy: bool| Extent { start: start * PAGE, pages, lazy };
        let extents = [extent(10, 5, true), extent(15, 1, false), extent(20, 4, true)];
        let first = |from: u64, to: u64| left_out(&extents, &(from * PAGE..to * PAGE)).map(|address| address / PAGE);
        assert_eq!([first(10, 16), first(11, 15), first(20, 24), first(15, 16)], [None; 4]);
        assert_eq!(
            [first(9, 12), first(12, 21), first(16, 17), first(23, 25)],
            [Some(9), Some(16), Some(16), Some(24)]
        );
        assert_eq!(left_out(&[], &(0..PAGE)), Some(0));
    }
}
