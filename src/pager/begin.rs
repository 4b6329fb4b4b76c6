//! The two ways to begin: with what CRIU hands over, or with what a pager that died has left.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::fdstore::{CONNECTION, JOURNAL, process};
use super::journal::{Entry, Journal};
use super::process::{Process, State};
use super::socket::Task;
use super::{Error, Service};
use crate::store::Memory;
use crate::sys::uffd::{Event, Uffd};

/// What there is to each of CRIU's tasks. The tasks are still the caller's: nothing is closed when this fails.
pub struct Taken {
    /// The new journal.
    pub journal: Journal,
    memories: Vec<(usize, Arc<dyn Memory>)>,
}

impl Taken {
    /// The tasks, with their memories.
    pub fn with(self, tasks: Vec<Task>) -> (Journal, Vec<Process>) {
        let processes = tasks.into_iter().zip(self.memories).map(|(task, (number, memory))| {
            let state = State::new(&*memory);
            Process::new(number, Some(task.pid), task.pid, task.uffd, memory, state)
        });
        (self.journal, processes.collect())
    }
}

/// Takes CRIU's tasks on: has everything kept that a successor needs.
///
/// # Errors
/// When there is no memory of a task, or no room.
pub fn take_on(connection: &OwnedFd, tasks: &[Task], service: &Service<'_>) -> Result<Taken, Error> {
    let mut journal = Journal::create()?;
    let mut memories = Vec::new();
    service.store.keep(JOURNAL, journal.file().as_fd())?;
    for task in tasks {
        let number = journal.task(task.pid)?;
        service.store.keep(&process(number), task.uffd.as_fd())?;
        memories.push((number, memory(service, task.pid)?));
    }
    service.store.keep(CONNECTION, connection.as_fd())?;
    journal.whole()?;
    Ok(Taken { journal, memories })
}

/// What a server needs: the connection to CRIU, the journal, the processes.
type Estate = (OwnedFd, Journal, Vec<Process>);

/// Takes over from a pager that died, with what was kept of it. `None`: it had done its work.
///
/// # Errors
/// [`Error::Lost`] where what was kept is not all that is needed.
pub fn take_over(fds: &[(String, OwnedFd)], service: &Service<'_>) -> Result<Option<Estate>, Error> {
    let kept = |name: &str| fds.iter().find(|(n, _)| n == name).map(|(_, fd)| fd.try_clone());
    let lacking = || Error::Protocol("a pager died before it had everything kept".into());
    let (journal, entries) = Journal::open(kept(JOURNAL).ok_or_else(lacking)??)?;
    let (states, whole) = replay(&entries, |pid| memory(service, pid))?;
    if whole && states.is_empty() {
        return Ok(None);
    }
    let connection = kept(CONNECTION).filter(|_| whole).ok_or_else(lacking)??;
    let mut processes = Vec::new();
    for (number, known) in states {
        let lost = || Error::Lost { pid: known.image, reason: "its userfaultfd died with a pager".into() };
        let uffd = Uffd::from(kept(&process(number)).ok_or_else(lost)??);
        let process = Process::new(number, known.pid, known.image, uffd, known.memory, known.state);
        // What the other one had heard of and not answered.
        process.wake_all()?;
        processes.push(process);
    }
    Ok(Some((connection, journal, processes)))
}

fn memory(service: &Service<'_>, pid: i32) -> Result<Arc<dyn Memory>, Error> {
    (service.memory)(pid).map_err(|e| Error::Lost { pid, reason: e.to_string() })
}

/// A process as the journal shows it.
struct Known {
    pid: Option<i32>,
    image: i32,
    memory: Arc<dyn Memory>,
    state: State,
}

/// Follows the journal: what processes there are by number, and whether they are all that CRIU had.
fn replay(
    entries: &[Entry],
    mut memory: impl FnMut(i32) -> Result<Arc<dyn Memory>, Error>,
) -> Result<(BTreeMap<usize, Known>, bool), Error> {
    let (mut all, mut next, mut whole) = (BTreeMap::<usize, Known>::new(), 0, false);
    for entry in entries {
        match *entry {
            Entry::Task(pid) => {
                let memory = memory(pid)?;
                all.insert(next, Known { pid: Some(pid), image: pid, state: State::new(&*memory), memory });
                next += 1;
            }
            Entry::Whole => whole = true,
            Entry::Filled(number) => drop(all.remove(&number)),
            Entry::Told(number, Event::Fork(_)) => {
                // Where the parent had been filled before, the child lacks nothing and was never served.
                if let Some(parent) = all.get(&number) {
                    let (image, memory, state) = (parent.image, parent.memory.clone(), parent.state.fork());
                    all.insert(next, Known { pid: None, image, memory, state });
                }
                next += 1;
            }
            Entry::Told(number, event) => {
                if let Some(process) = all.get_mut(&number) {
                    process.state.apply(&event);
                }
            }
        }
    }
    Ok((all, whole))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::store::{Extent, PAGE};

    struct Ten;

    impl Memory for Ten {
        fn extents(&self) -> &[Extent] {
            &[Extent { start: 0, pages: 10, lazy: true }, Extent { start: 1 << 20, pages: 10, lazy: false }]
        }

        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("nobody reads this"))
        }
    }

    #[test]
    fn a_child_has_what_its_parent_had_at_its_birth() {
        let remove = |start: u64, end: u64| Event::Remove { start: start * PAGE, end: end * PAGE };
        let entries = [
            Entry::Task(70),
            Entry::Whole,
            Entry::Told(0, remove(0, 2)),
            Entry::Told(0, Event::Fork(9)),
            Entry::Told(0, remove(2, 4)),
            Entry::Told(1, remove(5, 6)),
            Entry::Told(1, Event::Fork(9)),
            Entry::Filled(1),
            Entry::Told(0, Event::Fault(0)),
        ];
        let (all, whole) = replay(&entries, |_| Ok(Arc::new(Ten))).unwrap();
        let missing: Vec<_> = all.iter().map(|(n, k)| (*n, k.pid, k.image, k.state.missing.bytes() / PAGE)).collect();
        assert_eq!(missing, [(0, Some(70), 70, 6), (2, None, 70, 7)]);
        assert!(whole);
    }
}
