//! Whether all memory of a frozen unit is in its image: CRIU decides what is dumped, by what the kernel tells it of each page.
//! What it leaves out would be zeros after the switch, and nobody would notice.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use crate::inspect::{UnitProcs, smaps};
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
            let lost = used.iter().flat_map(|range| left_out(stored.extents(), range));
            if let Some(address) = first_with_content(pid, lost)?
                // CRIU (from 4.2 on) leaves out what its owner cannot rely on either.
                && !smaps::droppable(pid)?.iter().any(|range| range.contains(&address))
            {
                bail!("CRIU has left out memory of its process {pid}, at {address:#x}; try the update again");
            }
        }
    }
    Ok(())
}

/// What of `range` is in none of `extents`, which are in order.
fn left_out(extents: &[Extent], range: &Range<u64>) -> Vec<Range<u64>> {
    let end = |extent: &Extent| extent.start + extent.pages * PAGE;
    let (mut gaps, mut next) = (Vec::new(), range.start);
    for extent in &extents[extents.partition_point(|extent| end(extent) <= range.start)..] {
        if extent.start >= range.end {
            break;
        }
        if extent.start > next {
            gaps.push(next..extent.start);
        }
        next = end(extent);
    }
    if next < range.end {
        gaps.push(next..range.end);
    }
    gaps
}

/// The first page of `ranges` that is not all zeros. Of such a page nothing is lost: the kernel's huge page of zeros is one, and
/// looks like any other to those who ask it (before Linux 6.17). What cannot be read nobody can read: a guard page.
fn first_with_content(pid: i32, ranges: impl Iterator<Item = Range<u64>>) -> Result<Option<u64>> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("a process is gone")?;
    let mut page = [0; PAGE as usize];
    for range in ranges {
        for address in range.step_by(PAGE as usize) {
            let read = memory.read_exact_at(&mut page, address).is_ok();
            if read && page.iter().any(|byte| *byte != 0) {
                return Ok(Some(address));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_counts() {
        let extent = |start: u64, pages: u64, lazy: bool| Extent { start: start * PAGE, pages, lazy };
        let extents = [extent(10, 5, true), extent(15, 1, false), extent(20, 4, true)];
        let gaps = |from: u64, to: u64| {
            let gaps = left_out(&extents, &(from * PAGE..to * PAGE));
            gaps.into_iter().map(|gap| (gap.start / PAGE, gap.end / PAGE)).collect::<Vec<_>>()
        };
        assert!([gaps(10, 16), gaps(11, 15), gaps(20, 24), gaps(15, 16)].iter().all(Vec::is_empty));
        assert_eq!(
            [gaps(9, 12), gaps(12, 21), gaps(16, 17), gaps(23, 25)],
            [[(9, 10)], [(16, 20)], [(16, 17)], [(24, 25)]]
        );
        assert_eq!(gaps(9, 30), [(9, 10), (16, 20), (24, 30)]);
        assert_eq!(left_out(&[], &(0..PAGE)), vec![0..PAGE]);
    }

    #[test]
    fn zeros_are_no_loss() {
        let at = |memory: &[u8]| (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let mut memory = vec![0u8; 4 * PAGE as usize];
        let (start, own) = (at(&memory), std::process::id() as i32);
        let first = || first_with_content(own, std::iter::once(start..start + 2 * PAGE)).unwrap();
        assert_eq!(first(), None);
        let offset = (start - memory.as_ptr() as u64 + PAGE + 7) as usize;
        memory[offset] = 1;
        assert_eq!(first(), Some(start + PAGE));
        assert_eq!(first_with_content(own, std::iter::once(0..PAGE)).unwrap(), None, "nothing is mapped there");
    }
}
