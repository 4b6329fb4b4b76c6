//! What another process's pages are like: the ioctl PAGEMAP_SCAN of /proc/PID/pagemap (Linux 6.7,
//! Documentation/admin-guide/mm/pagemap.rst).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::hugepage;

// Categories of linux/fs.h.
const FILE: u64 = 1 << 2;
const ZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;
/// Regions that one call can tell of.
const MOST: usize = 256;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

mod ioctl {
    nix::ioctl_readwrite!(scan, b'f', 16, super::Scan);
}

/// Where in `range` anonymous memory is in huge pages; `pagemap` is the process's /proc/PID/pagemap, open for reading.
///
/// # Errors
/// ENOTTY before Linux 6.7; ESRCH where the process is gone.
pub fn huge(pagemap: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let (mut found, mut next): (Vec<Range<u64>>, u64) = (Vec::new(), range.start);
    while next < range.end {
        let mut regions = [Region::default(); MOST];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start: next,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: MOST as u64,
            category_inverted: FILE | ZERO,
            category_mask: FILE | ZERO | HUGE,
            return_mask: HUGE,
            ..Scan::default()
        };
        // SAFETY: the kernel reads and writes `scan`, and writes at most `vec_len` regions to `regions`; both outlive the call.
        let count = unsafe { ioctl::scan(pagemap.as_raw_fd(), &raw mut scan) }?;
        for region in regions.iter().take(count as usize) {
            match found.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => found.push(region.start..region.end),
            }
        }
        // It always gets on; a kernel where it did not would keep us here.
        next = scan.walk_end.max(next + hugepage::SIZE);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pager::collapse;
    use crate::sys::watched::Watched;

    #[test]
    fn what_was_made_huge_is_found() {
        let memory = Watched::map(None, 4 * hugepage::SIZE);
        memory.write(0, 1);
        memory.write(2 * hugepage::SIZE, 1);
        let range = memory.start..memory.start + 4 * hugepage::SIZE;
        let second = memory.start + 2 * hugepage::SIZE;
        let made = collapse::all(&[(std::process::id() as i32, second..second + hugepage::SIZE)]);
        let found = match huge(&File::open("/proc/self/pagemap").unwrap(), range) {
            Ok(found) => found,
            Err(e) => return eprintln!("SKIPPED: {e}"),
        };
        println!("{made} made, {found:x?} found");
        let whole = |r: &Range<u64>| r.start <= second && second + hugepage::SIZE <= r.end;
        assert!(made == 0 || found.iter().any(whole));
        assert!(huge(&File::open("/dev/null").unwrap(), 0..4096).is_err());
    }
}
