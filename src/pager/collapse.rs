//! Huge pages where there were some. Pages come back one by one, in small ones.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::store::WINDOW;
use crate::sys::advise::{collapse, yield_to_all};
use crate::sys::pidfd::PidFd;

/// How long it may take: the update's end waits for it. The kernel does the rest in its own time.
const WITHIN: Duration = Duration::from_secs(60);

/// Makes huge pages of what lies in `ranges`, by PID, where the kernel does it. For the unit it is the same memory: nothing
/// of this can fail in a way that matters. Returns how many there are now.
pub fn all(ranges: &[(i32, Range<u64>)]) -> usize {
    let work = || {
        yield_to_all();
        let deadline = Instant::now() + WITHIN;
        ranges.iter().map(|(pid, range)| of(*pid, range, deadline)).sum()
    };
    // A thread of its own: its nice value never comes back.
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or(0))
}

fn of(pid: i32, range: &Range<u64>, deadline: Instant) -> usize {
    let Ok(process) = PidFd::open(pid) else { return 0 };
    // One at a time: the kernel holds the process's mappings while it copies, and gives up at the first that cannot be.
    let in_time = huge(range).take_while(|_| Instant::now() < deadline);
    in_time.filter(|start| collapse(&process, *start, WINDOW).is_ok()).count()
}

/// Addresses of the huge pages that fit into `range`.
fn huge(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    let (first, end) = (range.start.div_ceil(WINDOW), range.end / WINDOW);
    (first..end).map(|n| n * WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_ones_only() {
        let huge = |start, end| huge(&(start..end)).collect::<Vec<_>>();
        assert_eq!(huge(0, WINDOW), [0]);
        assert_eq!(huge(1, 3 * WINDOW - 1), [WINDOW]);
        assert_eq!(huge(1, WINDOW), [0; 0]);
        assert_eq!(huge(5 * WINDOW, 4 * WINDOW), [0; 0]);
    }
}
