//! Which huge pages are handed over, as few and as well-placed ranges of physical memory as there are, and how pages are
//! counted in them.
//!
//! The next kernel takes a range back as ordinary memory block by block, and keeps its first huge page for a header: a
//! range that begins one huge page before a block and ends with one loses nothing else. Until then the range is a block
//! device. Whoever looks for file systems on devices reads their beginning and their end, where no service's memory is to
//! be taken for one: the first and the last huge page of each range stay empty.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::PAGE;
use crate::sys::hugepage::SIZE as HUGE;

/// Neighbouring huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Physical address of the first, bytes.
    pub start: u64,
    /// Length of all, bytes.
    pub length: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Is any of `range` in it?
    pub fn touches(&self, range: &Range<u64>) -> bool {
        range.start < self.end() && self.start < range.end
    }

    /// Bytes that can be stored in it.
    pub fn room(&self) -> u64 {
        self.length.saturating_sub(2 * HUGE)
    }

    /// The part of it that becomes ordinary memory again, where memory comes and goes in blocks of `block` bytes.
    pub fn returned(&self, block: u64) -> u64 {
        let begin = (self.start + HUGE).next_multiple_of(block);
        (self.end() / block * block).saturating_sub(begin)
    }

    /// The largest part of it of which only the header is lost.
    fn aligned(&self, block: u64) -> Option<Self> {
        let length = self.returned(block);
        let begin = (self.start + HUGE).next_multiple_of(block);
        (length > 0).then(|| Self { start: begin - HUGE, length: length + HUGE })
    }
}

/// Bytes of `runs` that stay lost until the next boot.
pub fn lost(runs: &[Run], block: u64) -> u64 {
    runs.iter().map(|run| run.length - run.returned(block)).sum()
}

/// Is no more of `runs` lost than has to be?
pub fn are_whole(runs: &[Run], block: u64) -> bool {
    lost(runs, block) == runs.len() as u64 * HUGE
}

/// Chooses from the huge pages at the addresses `pages` at most `most` runs with room for `need` bytes. None of them touches
/// `avoid`. Runs of which nothing is lost but the header come first.
pub fn choose(pages: &[u64], avoid: &[Range<u64>], need: u64, block: u64, most: usize) -> Option<Vec<Run>> {
    let whole = merge(pages, avoid);
    let mut aligned: Vec<_> = whole.iter().filter_map(|run| run.aligned(block)).collect();
    let whole_blocks = |left: u64| (left + HUGE).next_multiple_of(block) + HUGE;
    let any_length = |left: u64| left.next_multiple_of(HUGE) + 2 * HUGE;
    let (mut chosen, left) = largest(&mut aligned, need, most, whole_blocks);
    if left > 0 {
        let avoid: Vec<_> = avoid.iter().cloned().chain(chosen.iter().map(|run| run.start..run.end())).collect();
        let (more, left) = largest(&mut merge(pages, &avoid), left, most - chosen.len(), any_length);
        if left > 0 {
            return None;
        }
        chosen.extend(more);
    }
    chosen.sort_by_key(|run| run.start);
    Some(chosen)
}

/// The largest of `runs`, until there is room for `need`, and what there is no room for; the last one is only as long as
/// `length` says for what is left.
fn largest(runs: &mut [Run], need: u64, most: usize, length: impl Fn(u64) -> u64) -> (Vec<Run>, u64) {
    runs.sort_by_key(|run| (std::cmp::Reverse(run.length), run.start));
    let (mut chosen, mut left) = (Vec::new(), need);
    for run in runs.iter().filter(|run| run.room() > 0).take(most) {
        if left == 0 {
            break;
        }
        let run = Run { length: run.length.min(length(left)), ..*run };
        chosen.push(run);
        left = left.saturating_sub(run.room());
    }
    (chosen, left)
}

/// Neighbours among `pages` that do not touch `avoid`.
fn merge(pages: &[u64], avoid: &[Range<u64>]) -> Vec<Run> {
    let touches = |page: u64| avoid.iter().any(|r| r.start < page + HUGE && page < r.end);
    let mut pages: Vec<_> = pages.iter().copied().filter(|page| !touches(*page)).collect();
    pages.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if run.end() == page => run.length += HUGE,
            _ => runs.push(Run { start: page, length: HUGE }),
        }
    }
    runs
}

/// Counts the pages that can be stored in runs: frames.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    runs: Vec<(u64, Run)>,
    /// How many frames there are.
    pub frames: u64,
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the run.
    pub run: usize,
    /// Bytes from its begin.
    pub offset: u64,
    /// Bytes from there on that can be stored in the same run.
    pub room: u64,
}

impl Layout {
    /// The frames of `runs`, in their order.
    pub fn new(runs: &[Run]) -> Self {
        let mut layout = Self::default();
        for run in runs {
            layout.runs.push((layout.frames, *run));
            layout.frames += run.room() / PAGE;
        }
        layout
    }

    /// Where `frame` is; `None` where there is no such one.
    pub fn place(&self, frame: u64) -> Option<Place> {
        let run = self.runs.partition_point(|(first, _)| *first <= frame).checked_sub(1)?;
        let (first, run_at) = &self.runs[run];
        let within = (frame - first).checked_mul(PAGE)?;
        let room = run_at.room().checked_sub(within).filter(|room| *room > 0)?;
        Some(Place { run, offset: HUGE + within, room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: u64 = 128 << 20;
    const MIB: u64 = 1 << 20;

    fn pages(from: u64, to: u64) -> Vec<u64> {
        (from..to).step_by(HUGE as usize).collect()
    }

    #[test]
    fn whole_blocks_are_preferred() {
        let all = pages(100 * MIB, 1000 * MIB);
        let chosen = choose(&all, &[], 200 * MIB, BLOCK, 4).unwrap();
        assert_eq!(chosen, [Run { start: 126 * MIB, length: 258 * MIB }]);
        assert_eq!(lost(&chosen, BLOCK), HUGE);
        let hole = 300 * MIB..301 * MIB;
        let around = choose(&all, std::slice::from_ref(&hole), 200 * MIB, BLOCK, 4).unwrap();
        assert_eq!(around, [Run { start: 382 * MIB, length: 258 * MIB }]);
        let scarce = pages(120 * MIB, 300 * MIB);
        let mixed = choose(&scarce, &[], 150 * MIB, BLOCK, 4).unwrap();
        assert_eq!(mixed, [Run { start: 126 * MIB, length: 130 * MIB }, Run { start: 256 * MIB, length: 28 * MIB }]);
        assert!(are_whole(&chosen, BLOCK) && !are_whole(&mixed, BLOCK));
    }

    #[test]
    fn without_whole_blocks_the_ends_are_lost() {
        let some = [pages(10 * MIB, 50 * MIB), pages(60 * MIB, 90 * MIB)].concat();
        let chosen = choose(&some, &[], 50 * MIB, BLOCK, 4).unwrap();
        assert_eq!(chosen.len(), 2);
        assert_eq!(lost(&chosen, BLOCK), chosen.iter().map(|run| run.length).sum::<u64>());
        assert_eq!(choose(&some, &[], 50 * MIB, BLOCK, 1), None, "more runs than may be");
        assert_eq!(choose(&some, &[], 70 * MIB, BLOCK, 4), None, "too little");
    }

    #[test]
    fn frames_leave_the_ends_of_runs_empty() {
        let runs = [Run { start: 8 * MIB, length: 6 * MIB }, Run { start: 32 * MIB, length: 8 * MIB }];
        let layout = Layout::new(&runs);
        assert_eq!(layout.frames, 512 + 1024);
        assert_eq!(layout.place(0), Some(Place { run: 0, offset: HUGE, room: HUGE }));
        assert_eq!(layout.place(511), Some(Place { run: 0, offset: 2 * HUGE - PAGE, room: PAGE }));
        assert_eq!(layout.place(512), Some(Place { run: 1, offset: HUGE, room: 2 * HUGE }));
        assert_eq!((layout.place(1536), layout.place(u64::MAX)), (None, None));
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_there_and_enough(
            numbers in prop::collection::btree_set(0u64..600, 0..500),
            avoid in (0u64..600, 0u64..40),
            need in 1u64..300,
        ) {
            let have: Vec<u64> = numbers.iter().map(|n| n * HUGE).collect();
            let avoid = avoid.0 * HUGE..(avoid.0 + avoid.1) * HUGE;
            if let Some(runs) = choose(&have, std::slice::from_ref(&avoid), need * MIB, BLOCK, 8) {
                prop_assert!(runs.len() <= 8 && runs.iter().map(Run::room).sum::<u64>() >= need * MIB);
                prop_assert!(runs.windows(2).all(|two| two[0].end() <= two[1].start));
                for page in runs.iter().flat_map(|run| pages(run.start, run.end())) {
                    prop_assert!(have.binary_search(&page).is_ok() && !avoid.contains(&page));
                }
            }
        }
    }
}
