//! The PID floor: where the new kernel begins to hand out PIDs, so that none of them is one that a restored process needs.

/// `kernel.pid_max` of the target: the largest that a 64-bit kernel takes (PID_MAX_LIMIT); PIDs are below it.
pub const PID_MAX: u32 = 4_194_304;
/// After a round the kernel goes on here (RESERVED_PIDS, kernel/pid.c).
const FIRST: u32 = 300;
/// Up to here the floor is simply a bit above the highest PID in use; beyond it the room up to [`PID_MAX`] gets short.
const HIGH: u32 = 3_000_000;

/// So many processes and threads may begin between arming, when the target's command line is fixed, and the checkpoint:
/// servers that fork, and everything that runs while an administrator waits with `systemctl kexec`.
const ROOM: u32 = 1 << 16;

/// N for `kernel.ns_last_pid`: the new kernel hands out N+1, N+2, … in a circle and meets none of `used` (PIDs, thread,
/// group and session ids) for as long as possible: more than a million PIDs where none is above 3,000,000, else the
/// largest gap that there is.
pub fn pid_floor(used: &[i32]) -> u32 {
    let mut used: Vec<u32> = used.iter().filter_map(|p| u32::try_from(*p).ok()).collect();
    used.retain(|p| (FIRST..PID_MAX).contains(p));
    used.sort_unstable();
    match (used.first(), used.last()) {
        (Some(first), Some(last)) if *last > HIGH => {
            // The gap over the end of the circle first: on equal terms there is no need to begin in the middle.
            let around = (*last, PID_MAX - last + first - FIRST);
            let between = used.windows(2).map(|w| (w[0], w[1] - w[0]));
            between.fold(around, |best, gap| if gap.1 > best.1 { gap } else { best }).0
        }
        (_, Some(last)) => *last + ROOM,
        _ => FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// How many PIDs the kernel hands out from `floor` on until it meets one of `used`, at most `most`.
    fn allocations(floor: u32, used: &BTreeSet<u32>, most: usize) -> usize {
        let next = |p: u32| if p + 1 >= PID_MAX { FIRST } else { p + 1 };
        std::iter::successors(Some(next(floor)), |p| Some(next(*p)))
            .take(most)
            .take_while(|p| !used.contains(p))
            .count()
    }

    #[test]
    fn examples() {
        for (used, want) in [
            (&[][..], 300),
            (&[-1, 0, 1, 17], 300),
            (&[812, 40_112, 813], 40_112 + ROOM),
            (&[3_000_000], 3_000_000 + ROOM),
            (&[3_500_000], 3_500_000),
            (&[500, 100_000, 4_194_303], 100_000),
            (&[4_194_303], 4_194_303),
        ] {
            assert_eq!(pid_floor(used), want, "{used:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_hundred_thousand_before_the_first_meeting(
            used in prop::collection::vec(prop_oneof![1i32..4_194_304, 3_000_000i32..4_194_304, 300i32..40_000], 0..38),
        ) {
            // Up to 38 ids leave a gap of more than 100,000 somewhere.
            let floor = pid_floor(&used);
            let set: BTreeSet<u32> = used.iter().map(|p| *p as u32).collect();
            prop_assert_eq!(allocations(floor, &set, 100_000), 100_000);
            if let Some(last) = set.last().filter(|l| **l <= HIGH) {
                prop_assert!(floor >= *last + ROOM);
            }
        }
    }
}
