//! How much the units of an update take: of the disk, and of memory beside what they have.

use crate::criu::page_server;
use crate::inspect::UnitProcs;
use crate::pager;
use crate::store::{PAGE, WINDOW, window::Window};
use crate::unit::PreserveSpec;

/// What CRIU, its helpers and a pager have in RAM of their own for one unit, whatever its size, bytes.
const CRIU: u64 = 12 << 20;
/// What a pre-dump puts into pipes are the unit's own pages; the kernel keeps so many bytes to tell of each of them
/// (struct pipe_buffer).
const PIPE_ENTRY: u64 = 40;
/// Indexes of a unit's memory at the same time: the round's and that of the one before it.
const INDEXES: u64 = 2;

/// What units need, sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Their images on disk, at most.
    pub images: u64,
    /// How many they are.
    pub units: u64,
    /// How many of them say how they are asked whether they are well.
    pub health_checks: u64,
    /// What is stored of their memory.
    pub stored: u64,
    /// What of that is swapped out, and back in RAM after the switch.
    pub swapped: u64,
    /// Windows that it lies in, at most.
    pub windows: u64,
}

impl Needs {
    /// Counts a unit in.
    pub fn add(&mut self, procs: &UnitProcs, spec: &PreserveSpec) {
        // Copies of deleted files go with the images.
        let copies = procs.deleted().into_iter().filter(|d| !d.directory && d.nlink == 0).map(|d| d.size);
        let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
        let stored = sum(&mut procs.processes.iter().map(|p| p.memory.stored()));
        self.images = sum(&mut [self.images, procs.image_size()].into_iter().chain(copies));
        self.units += 1;
        self.health_checks += u64::from(spec.health_check.is_some());
        self.stored = self.stored.saturating_add(stored);
        self.swapped = sum(&mut [self.swapped].into_iter().chain(procs.processes.iter().map(|p| p.memory.swap)));
        // Each mapping may begin in the midst of a window.
        self.windows += (stored / WINDOW).saturating_add(procs.mappings().count() as u64);
    }

    /// What checkpointing all of them at the same time takes beside what they have.
    pub fn for_checkpoint(&self) -> u64 {
        let index = self.windows.saturating_mul(INDEXES * Window::SIZE);
        let pipes = (self.stored / PAGE).saturating_mul(PIPE_ENTRY);
        index.saturating_add(pipes).saturating_add(self.processes(page_server::MEMORY))
    }

    /// What restoring all of them at the same time, on so many processors, takes beside what they have now in RAM.
    pub fn for_restore(&self, processors: u64) -> u64 {
        let index = self.windows.saturating_mul(Window::SIZE);
        index.saturating_add(self.swapped).saturating_add(self.processes(pager::memory(processors)))
    }

    /// What processes beside each unit take, with `buffers` for its memory: never more than there is of it.
    fn processes(&self, buffers: u64) -> u64 {
        self.units.saturating_mul(CRIU).saturating_add(self.units.saturating_mul(buffers).min(self.stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Mapping, Memory, Process};

    fn unit(memory: Memory) -> UnitProcs {
        let process = Process { memory, mappings: vec![Mapping::default(); 3], ..Process::default() };
        UnitProcs { processes: vec![process], ..UnitProcs::default() }
    }

    #[test]
    fn a_large_unit_needs_little_beside_itself() {
        let mut needs = Needs::default();
        needs.add(&unit(Memory { anonymous: 8 << 30, swap: 1 << 30, ..Memory::default() }), &PreserveSpec::default());
        assert_eq!((needs.units, needs.stored, needs.swapped), (1, 9 << 30, 1 << 30));
        assert_eq!((needs.images, needs.windows), (9 << 30, (9 << 30) / WINDOW + 3));
        let share = needs.for_checkpoint() * 100 / needs.stored;
        assert!((1..3).contains(&share), "{share} %");
        let restore = needs.for_restore(4);
        assert!(restore > 1 << 30 && restore < (1 << 30) + (128 << 20), "{restore}");
        needs.add(&unit(Memory::default()), &PreserveSpec::default());
        assert!(needs.for_restore(4) > restore + CRIU);
    }

    #[test]
    fn many_small_units_need_little() {
        let mut needs = Needs::default();
        (0..20).for_each(|_| {
            needs.add(&unit(Memory { anonymous: 1 << 20, ..Memory::default() }), &PreserveSpec::default())
        });
        assert!(needs.for_checkpoint().max(needs.for_restore(64)) < 20 * (CRIU + (2 << 20)));
    }

    #[test]
    fn what_no_machine_has_is_no_overflow() {
        let mut needs = Needs::default();
        for _ in 0..2 {
            needs.add(
                &unit(Memory { anonymous: u64::MAX, swap: u64::MAX, ..Memory::default() }),
                &PreserveSpec::default(),
            );
        }
        assert!(needs.for_checkpoint() > 1 << 50 && needs.for_restore(1) == u64::MAX);
    }
}
