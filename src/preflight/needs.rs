//! How much the units of an update take: of the disk, and of memory beside what they have.

use crate::config::Settings;
use crate::criu::page_server;
use crate::inspect::UnitProcs;
use crate::pager;
use crate::store::{PAGE, WINDOW, window::Window};
use crate::unit::{Fallback, PreserveSpec, Storage};
use crate::update::ram;

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
    /// What of that goes there in any case: the rest may find room in RAM.
    pub written: u64,
    /// What of `images` cannot be stored before they stand still.
    pub at_once: u64,
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
    pub fn add(&mut self, procs: &UnitProcs, spec: &PreserveSpec, settings: &Settings) {
        let stored = sum(procs.processes.iter().map(|p| p.memory.stored()));
        self.add_files(procs, stored, (ram::storage(spec, settings), ram::fallback(spec, settings)));
        self.units += 1;
        self.health_checks += u64::from(spec.health_check.is_some());
        self.stored = self.stored.saturating_add(stored);
        self.swapped = sum([self.swapped].into_iter().chain(procs.processes.iter().map(|p| p.memory.swap)));
        // Each mapping may begin in the midst of a window.
        self.windows += (stored / WINDOW).saturating_add(procs.mappings().count() as u64);
    }

    /// Counts what goes to the disk of a unit of whose memory so much is stored, and that is kept so.
    fn add_files(&mut self, procs: &UnitProcs, stored: u64, kept: (Storage, Fallback)) {
        // Copies of deleted files go with the images.
        let copies = procs.deleted().into_iter().filter(|d| !d.directory && d.nlink == 0).map(|d| d.size);
        let copies = sum(copies);
        let all = procs.image_size();
        // Whatever stays in RAM, what CRIU reads itself is in files of its own.
        let least = all.saturating_sub(stored);
        let (images, written) = match kept {
            (Storage::Disk, _) | (_, Fallback::Disk) => (all, all),
            (Storage::Auto, Fallback::None) => (all, least),
            (Storage::Ram, Fallback::None) => (least, least),
        };
        let at_once = if procs.stored_at_once().is_some() { images } else { least };
        self.images = sum([self.images, images, copies]);
        self.written = sum([self.written, written, copies]);
        self.at_once = sum([self.at_once, at_once, copies]);
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

fn sum(all: impl IntoIterator<Item = u64>) -> u64 {
    all.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{Mapping, Memory, Process};

    fn unit(memory: Memory) -> UnitProcs {
        let process = Process { memory, mappings: vec![Mapping::default(); 3], ..Process::default() };
        UnitProcs { processes: vec![process], ..UnitProcs::default() }
    }

    fn add(needs: &mut Needs, memory: Memory) {
        needs.add(&unit(memory), &PreserveSpec::default(), &Settings::default());
    }

    #[test]
    fn a_large_unit_needs_little_beside_itself() {
        let mut needs = Needs::default();
        add(&mut needs, Memory { anonymous: 8 << 30, swap: 1 << 30, ..Memory::default() });
        assert_eq!((needs.units, needs.stored, needs.swapped), (1, 9 << 30, 1 << 30));
        assert_eq!((needs.images, needs.windows), (9 << 30, (9 << 30) / WINDOW + 3));
        let share = needs.for_checkpoint() * 100 / needs.stored;
        assert!((1..3).contains(&share), "{share} %");
        let restore = needs.for_restore(4);
        assert!(restore > 1 << 30 && restore < (1 << 30) + (128 << 20), "{restore}");
        add(&mut needs, Memory::default());
        assert!(needs.for_restore(4) > restore + CRIU);
    }

    #[test]
    fn only_what_goes_there_is_on_the_disk() {
        const MIB: u64 = 1 << 20;
        let (ram, auto) = (Some(Storage::Ram), Some(Storage::Auto));
        let disk = |storage, fallback, settings: &Settings| {
            let mut needs = Needs::default();
            let spec = PreserveSpec { storage, fallback, ..PreserveSpec::default() };
            let memory = Memory { anonymous: 100 * MIB, shmem: 7 * MIB, ..Memory::default() };
            needs.add(&unit(memory), &spec, settings);
            assert_eq!((needs.stored, needs.at_once), (107 * MIB, 7 * MIB), "wherever it goes");
            (needs.images / MIB, needs.written / MIB)
        };
        let settings = Settings::default();
        assert_eq!(disk(None, None, &settings), (114, 114));
        assert_eq!(disk(ram, None, &settings), (114, 114), "a copy is there to fall back on");
        assert_eq!(disk(ram, Some(Fallback::None), &settings), (7, 7), "what CRIU reads itself");
        assert_eq!(disk(auto, Some(Fallback::None), &settings), (114, 7), "where RAM has no room");
        let settings = Settings { storage: Storage::Ram, fallback: Fallback::None, ..settings };
        assert_eq!(disk(None, None, &settings), (7, 7));
        assert_eq!(disk(Some(Storage::Disk), None, &settings), (114, 114), "the unit's own word counts");
        assert_eq!(disk(None, Some(Fallback::Disk), &settings), (114, 114));
    }

    #[test]
    fn what_is_stored_at_once_is_written_so() {
        let mut procs = unit(Memory { anonymous: 1 << 20, ..Memory::default() });
        let aio = Mapping { name: "/[aio]".into(), deleted: true, shared: true, ..Mapping::default() };
        procs.processes[0].mappings.push(aio);
        let mut needs = Needs::default();
        needs.add(&procs, &PreserveSpec::default(), &Settings::default());
        assert_eq!((needs.at_once, needs.images), (1 << 20, 1 << 20));
    }

    #[test]
    fn many_small_units_need_little() {
        let mut needs = Needs::default();
        (0..20).for_each(|_| add(&mut needs, Memory { anonymous: 1 << 20, ..Memory::default() }));
        assert!(needs.for_checkpoint().max(needs.for_restore(64)) < 20 * (CRIU + (2 << 20)));
    }

    #[test]
    fn what_no_machine_has_is_no_overflow() {
        let mut needs = Needs::default();
        for _ in 0..2 {
            add(&mut needs, Memory { anonymous: u64::MAX, swap: u64::MAX, ..Memory::default() });
        }
        assert!(needs.for_checkpoint() > 1 << 50 && needs.for_restore(1) == u64::MAX);
    }
}
