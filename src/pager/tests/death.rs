//! Pagers that die: as processes of their own, killed with SIGKILL.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::mman::MmapAdvise;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use super::kit::{Criu, Image, Nobody, alone, never, service};
use super::{expected, intact, is_registered};
use crate::pager::fdstore::{self, Store};
use crate::pager::journal::Journal;
use crate::pager::{Error, Pager};
use crate::store::{Memory, PAGE};
use crate::sys::pidfd::PidFd;
use crate::sys::watched::{self, Watched};

const PAGES: u64 = 8000;
const TEST: &str = "death::a_killed_pager_has_a_successor";
/// What a pager's process is to do: the first address, the directory, and what is kept, as `name=number` in its parent.
const ROLE: &str = "KUP_PAGER_TEST_ROLE";

/// The pager's end of the store: its standard input, a line each way.
struct Line(Mutex<BufReader<UnixStream>>);

impl Line {
    fn say(&self, line: String) -> io::Result<()> {
        let mut stream = self.0.lock().unwrap();
        stream.get_mut().write_all(line.as_bytes())?;
        stream.read_line(&mut String::new()).map(drop)
    }
}

impl Store for Line {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.say(format!("{name} {}\n", fd.as_raw_fd()))
    }

    fn release(&self, name: &str) -> io::Result<()> {
        self.say(format!("{name} -1\n"))
    }
}

type Kept = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// Starts a pager whose descriptors are kept in `kept`.
fn start(start: u64, dir: &Path, kept: &Kept) -> Child {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let names: Vec<String> =
        kept.lock().unwrap().iter().map(|(name, fd)| format!("{name}={}", fd.as_raw_fd())).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&format!("pager::tests::{TEST}"), "--exact", "--nocapture"]);
    command.env(ROLE, format!("{start} {} {}", dir.display(), names.join(",")));
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
    let (pager, kept) = (PidFd::open(child.id() as i32).unwrap(), kept.clone());
    std::thread::spawn(move || {
        let mut answer = ours.try_clone().unwrap();
        for line in BufReader::new(ours).lines().map_while(Result::ok) {
            let (name, fd) = line.split_once(' ').unwrap();
            match fd.parse().unwrap() {
                -1 => drop(kept.lock().unwrap().remove(name)),
                fd => drop(kept.lock().unwrap().insert(name.into(), pager.get_fd(fd).unwrap())),
            }
            let _ = answer.write_all(b"\n");
        }
    });
    child
}

/// In a pager's process.
fn pager(role: &str) {
    // A test that fails does not leave it behind.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    let mut role = role.splitn(3, ' ');
    let mut next = || role.next().unwrap();
    let (start, dir, kept) = (next().parse().unwrap(), next(), next());
    let parent = PidFd::open(parent_id() as i32).unwrap();
    let fds = kept.split(',').filter_map(|k| k.split_once('=')).map(|(name, fd)| {
        let fd = parent.get_fd(fd.parse().unwrap()).unwrap();
        (name.to_string(), fd)
    });
    let pager = Pager::resume_from_fds(fds.collect()).unwrap_or_else(|| Pager::listen(Path::new(dir), 1).unwrap());
    let image: Arc<dyn Memory> = Arc::new(Image::with_holes(start, PAGES, Duration::from_millis(10)));
    let store = Line(Mutex::new(BufReader::new(UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap()))));
    pager.run(&service(&|_| Ok(image.clone()), &store, &never)).unwrap();
}

#[test]
fn a_killed_pager_has_a_successor() {
    match std::env::var(ROLE) {
        Ok(role) => pager(&role),
        Err(_) => alone(TEST, succession),
    }
}

fn succession() {
    let uffd = watched::open().expect("userfaultfd");
    let memory = Watched::map(Some(&uffd), PAGES * PAGE);
    let elsewhere = Watched::map(None, 100 * PAGE);
    let begin = memory.start;
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::default();
    let mut first = start(begin, dir.path(), &kept);
    let mut criu = Criu::connect(dir.path());
    criu.task(std::process::id() as i32, &uffd);
    criu.finish();
    drop((criu, uffd));

    let page = |n: u64| memory.read(n * PAGE);
    assert_eq!(page(10), expected(begin, 10));
    // Some of this has come, some has not.
    memory.advise(0, 100 * PAGE, MmapAdvise::MADV_DONTNEED);
    memory.advise(3000 * PAGE, 100 * PAGE, MmapAdvise::MADV_DONTNEED);
    memory.write(PAGE, 77);
    memory.remap(200 * PAGE, 100 * PAGE, elsewhere);
    let late = Watched { start: begin + 6000 * PAGE };
    let child = watched::fork(|| {
        std::thread::sleep(Duration::from_millis(600));
        i32::from(!intact(late, begin, 6000..7000) || memory.read(50 * PAGE) != 0)
    });
    memory.advise(6000 * PAGE, 100 * PAGE, MmapAdvise::MADV_DONTNEED);
    first.kill().unwrap();
    first.wait().unwrap();
    let names: Vec<String> = kept.lock().unwrap().keys().cloned().collect();
    assert_eq!(names, ["criu", "journal", "process-0", "process-1"], "it died too late");

    std::thread::scope(|scope| {
        let waits = scope.spawn(|| page(7998));
        let frees = scope.spawn(|| {
            memory.advise(5000 * PAGE, 40 * PAGE, MmapAdvise::MADV_DONTNEED);
            page(5001)
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waits.is_finished() && !frees.is_finished(), "without a pager they wait");
        let mut second = start(begin, dir.path(), &kept);
        assert_eq!((waits.join().unwrap(), frees.join().unwrap()), (expected(begin, 7998), 0));
        assert!(second.wait().unwrap().success());
    });
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    assert!((0..100).all(|n| page(n) == if n == 1 { 77 } else { 0 }));
    assert!(intact(elsewhere, begin, 200..300));
    let freed = [3000..3100, 5000..5040, 6000..6100];
    for n in (100..200).chain(300..PAGES) {
        let zero = freed.iter().any(|f| f.contains(&n));
        assert_eq!(page(n), if zero { 0 } else { expected(begin, n) }, "page {n}");
    }
    assert!(!is_registered(begin, begin + PAGES * PAGE));
    assert!(kept.lock().unwrap().is_empty(), "nothing is kept any more");
}

fn image() -> Arc<dyn Memory> {
    Arc::new(Image::with_holes(0, 10, Duration::ZERO))
}

/// A pager that is left no more than `fds` says that process 7 is lost.
fn expect_lost(fds: Vec<(String, OwnedFd)>) {
    let told = Mutex::new(false);
    let lost = |error: &Error| *told.lock().unwrap() = matches!(error, Error::Lost { pid: 7, .. });
    let pager = Pager::resume_from_fds(fds).unwrap();
    assert!(pager.run(&service(&|_| Ok(image()), &Nobody, &lost)).is_err());
    assert!(*told.lock().unwrap());
}

#[test]
fn a_child_whose_descriptor_died_with_a_pager_is_lost() {
    alone("death::a_child_whose_descriptor_died_with_a_pager_is_lost", lost_child);
}

fn lost_child() {
    let uffd = watched::open().expect("userfaultfd");
    Watched::map(Some(&uffd), 10 * PAGE);
    let mut journal = Journal::create().unwrap();
    journal.task(7).unwrap();
    journal.whole().unwrap();
    let journal = std::thread::scope(|scope| {
        let pager = scope.spawn(|| {
            let (event, child) = loop {
                match journal.read(0, &uffd).unwrap() {
                    Some(read) => break read,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            journal.keep(&event);
            drop(child.expect("a fork"));
            journal
        });
        let child = watched::fork(|| 0);
        assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        pager.join().unwrap()
    });
    let (connection, _criu) = UnixStream::pair().unwrap();
    let fds = vec![
        (fdstore::JOURNAL.to_string(), journal.file().try_clone().unwrap().into()),
        (fdstore::CONNECTION.to_string(), connection.into()),
        (fdstore::process(0), uffd.as_fd().try_clone_to_owned().unwrap()),
    ];
    expect_lost(fds);
}

#[test]
fn a_process_whose_descriptor_died_is_lost() {
    let mut journal = Journal::create().unwrap();
    journal.task(7).unwrap();
    journal.whole().unwrap();
    let (connection, _criu) = UnixStream::pair().unwrap();
    let fds = vec![
        (fdstore::JOURNAL.to_string(), journal.file().try_clone().unwrap().into()),
        (fdstore::CONNECTION.to_string(), connection.into()),
    ];
    expect_lost(fds);

    journal.filled(0).unwrap();
    let fds = vec![(fdstore::JOURNAL.to_string(), OwnedFd::from(journal.file().try_clone().unwrap()))];
    let pager = Pager::resume_from_fds(fds).unwrap();
    let report = pager.run(&service(&|_| Ok(image()), &Nobody, &never));
    assert!(report.is_ok(), "one that has its memory is not lost");
}
