//! What another process's pages are like: the ioctl PAGEMAP_SCAN of /proc/PID/pagemap (Linux 6.7,
//! Documentation/admin-guide/mm/pagemap.rst).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use crate::store::PAGE;

// Categories of linux/fs.h.
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;
/// Regions that one call can tell of.
const MOST: usize = 256;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
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
    let which = Scan {
        category_inverted: FILE | ZERO,
        category_mask: FILE | ZERO | HUGE,
        return_mask: HUGE,
        ..Scan::default()
    };
    scan(pagemap, range, &which)
}

/// Where in `range` there is anonymous memory, in RAM or swapped out, which is more than the kernel's page of zeros; otherwise
/// as [`huge`].
///
/// # Errors
/// As [`huge`].
pub fn anonymous(pagemap: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let which = Scan {
        category_inverted: FILE | ZERO,
        category_mask: FILE | ZERO,
        category_anyof_mask: PRESENT | SWAPPED,
        return_mask: FILE,
        ..Scan::default()
    };
    scan(pagemap, range, &which)
}

/// Ranges of pages that are as `which` says.
fn scan(pagemap: &File, range: Range<u64>, which: &Scan) -> io::Result<Vec<Range<u64>>> {
    // Of a process that has no memory any more nothing can be read. Asked by the ioctl, kernels before Linux 6.16 take the null
    // pointer that they have instead of its memory (their commit 65c66047259f).
    if pagemap.read_at(&mut [0; 8], range.start / PAGE * 8)? < 8 {
        return Err(Errno::ESRCH.into());
    }
    let (mut found, mut next): (Vec<Range<u64>>, u64) = (Vec::new(), range.start);
    while next < range.end {
        let mut regions = [Region::default(); MOST];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start: next,
            end: range.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: MOST as u64,
            ..*which
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
        next = if scan.walk_end > next { scan.walk_end } else { return Err(io::ErrorKind::InvalidData.into()) };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pager::collapse;
    use crate::sys::hugepage;
    use crate::sys::watched::Watched;

    #[test]
    fn who_is_gone_has_nothing() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        if let Ok(pagemap) = File::open(format!("/proc/{}/pagemap", child.id())) {
            assert!(anonymous(&pagemap, 0..1 << 30).is_err());
        }
        child.wait().unwrap();
    }

    #[test]
    fn what_was_written_is_there() {
        let memory = Watched::map(None, 4 * hugepage::SIZE);
        let page = |n: u64| memory.start + n * 4096..memory.start + (n + 1) * 4096;
        memory.advise(0, 4 * hugepage::SIZE, nix::sys::mman::MmapAdvise::MADV_NOHUGEPAGE);
        [1, 2, 9].iter().for_each(|n| memory.write(n * 4096, 1));
        assert_eq!(memory.read(5 * 4096), 0);
        match anonymous(&File::open("/proc/self/pagemap").unwrap(), memory.start..memory.start + 4 * hugepage::SIZE) {
            Ok(found) => assert_eq!(found, [page(1).start..page(2).end, page(9)]),
            Err(e) => eprintln!("SKIPPED: {e}"),
        }
    }

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
