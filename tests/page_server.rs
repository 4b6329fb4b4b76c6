//! A real process through a real CRIU, kup's page server and back. Needs root and a CRIU that knows this kernel:
//!
//! ```sh
//! sudo -E cargo test --test page_server -- --ignored     # KUP_TEST_CRIU=PROGRAM for another than the installed one
//! ```

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kup::criu::{Dump, Error, Externals, PageError, PageServer, Restore, plain};
use kup::inspect::smaps;
use kup::store::{Disk, Foam, FoamError, Medium, Memory, PAGE, Sealed};
use kup::sys::spawn::Place;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Memory of its own (of both kinds that may come late: heap and mappings), memory that is shared, and then a wait that goes on
/// after a restore as if nothing had happened: a sleep is told of an interruption, which becomes its errno.
const SUBJECT: &str = "
import mmap, os, random, signal
os.setsid()
random.seed(7)
signal.signal(signal.SIGUSR1, lambda *_: own.append(random.randbytes(1 << 20)))
own = [random.randbytes(size) for size in (5 << 20, 300 << 10, 4096)]
shared = mmap.mmap(-1, 3 << 20)
shared.write(random.randbytes(2 << 20))
open('ready', 'w').close()
while True: signal.pause()
";

#[test]
#[ignore = "needs root, CRIU and Python"]
fn a_process_goes_through_foam_and_comes_back() {
    // What CRIU restores is ours to wait for.
    set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let mut subject = start(dir.path());
    let pid = subject.id() as i32;
    let droppable = smaps::droppable(pid).unwrap();
    let before = settled(pid, &droppable);

    let foam = Foam::new(Arc::new(Disk::create(&dir.path().join("slots")).unwrap()));
    fs::create_dir(&images).unwrap();
    let mut memory_in_foam = None;
    let (server, socket) = PageServer::start(foam).unwrap();
    dump(&images, pid, Some(socket), None, || {
        memory_in_foam = Some(plain::finish(server.finish().unwrap(), &images).unwrap())
    })
    .unwrap();
    subject.wait().unwrap();
    let foam = memory_in_foam.unwrap();
    is_as(&foam, pid, &before);

    // What CRIU reads at once is little.
    let eager = |dir: &Path| -> u64 {
        let pages = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        pages.filter(|p| p.to_string_lossy().contains("/pages-")).map(|p| p.metadata().unwrap().len()).sum()
    };
    let (little, lazy) = (
        eager(&images),
        foam.process(pid).unwrap().extents().iter().filter(|e| e.lazy).map(|e| e.pages * PAGE).sum::<u64>(),
    );
    println!("{little} bytes are read at once, {lazy} may come late");
    assert!(lazy > 5 << 20 && little < lazy + (2 << 20) && little > 2 << 20);

    // Plain images: CRIU alone makes the process of them.
    let exported = dir.path().join("exported");
    fs::create_dir(&exported).unwrap();
    plain::export(&foam, &images, &exported).unwrap();
    assert_eq!(eager(&exported), little + lazy);
    restored(&exported, pid);
    assert_same(&before, &memory(pid, &droppable));

    // A plain dump of what was restored, brought into FOAM and out again.
    let images = dir.path().join("plain");
    fs::create_dir(&images).unwrap();
    dump(&images, pid, None, None, || {}).unwrap();
    waitpid(Pid::from_raw(pid), None).unwrap();
    let foam = Foam::new(Arc::new(Disk::create(&images.join(plain::SLOTS)).unwrap()));
    plain::import(&images, foam).unwrap();
    let foam = plain::open(&images, None).unwrap();
    let exported = dir.path().join("exported again");
    fs::create_dir(&exported).unwrap();
    plain::export(&foam, &images, &exported).unwrap();
    restored(&exported, pid);
    let after = memory(pid, &droppable);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_same(&before, &after);
}

/// A round while the process goes on, then the dump of what has changed since. Where the kernel does not tell what has
/// changed, CRIU says so and the process goes on.
#[test]
#[ignore = "needs root, CRIU and Python"]
fn what_has_not_changed_is_not_dumped_again() {
    set_child_subreaper(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut subject = start(dir.path());
    let pid = subject.id() as i32;
    let droppable = smaps::droppable(pid).unwrap();
    let [first, last, exported] = ["first", "last", "exported"].map(|name| dir.path().join(name));
    [&first, &last, &exported].iter().for_each(|dir| fs::create_dir(dir).unwrap());

    let foam = Foam::new(Arc::new(Disk::create(&last.join(plain::SLOTS)).unwrap()));
    let (server, socket) = PageServer::start(foam).unwrap();
    let criu = criu();
    let pages = Some(socket);
    let round =
        Dump { criu: &criu, images: &first, main_pid: pid, namespaces: &[], ghost_limit: 0, pages, parent: None };
    if let Err(e) = round.pre_dump() {
        println!("{e}");
        assert!(server.finish().is_err() && subject.try_wait().unwrap().is_none());
        return subject.kill().unwrap();
    }
    let foam = server.finish().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let before = settled(pid, &droppable);

    let (server, socket) = PageServer::start(foam).unwrap();
    dump(&last, pid, Some(socket), Some("../first"), || {
        plain::finish(server.finish().unwrap(), &last).unwrap();
    })
    .unwrap();
    subject.wait().unwrap();
    assert!(!last.join("parent").exists());
    let foam = plain::open(&last, None).unwrap();
    is_as(&foam, pid, &before);
    plain::export(&foam, &last, &exported).unwrap();
    restored(&exported, pid);
    let after = memory(pid, &droppable);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert_same(&before, &after);
}

/// A medium that is full after a MiB.
struct Full(AtomicUsize);

impl Medium for Full {
    fn write(&self, _: u64, data: &[u8]) -> io::Result<()> {
        match self.0.fetch_add(data.len(), Ordering::Relaxed) {
            0..0x10_0000 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "needs root, CRIU and Python"]
fn a_full_disk_leaves_the_process_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut subject = start(dir.path());
    let pid = subject.id() as i32;
    let droppable = smaps::droppable(pid).unwrap();
    let before = settled(pid, &droppable);
    let (server, socket) = PageServer::start(Foam::new(Arc::new(Full(AtomicUsize::new(0))))).unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let why = dump(&images, pid, Some(socket), None, || panic!("it is complete")).unwrap_err();
    println!("{why}");
    assert!(matches!(server.finish().err(), Some(PageError::Foam(FoamError::Medium(..)))));
    assert_same(&before, &settled(pid, &droppable));
    assert!(subject.try_wait().unwrap().is_none());
    subject.kill().unwrap();
    subject.wait().unwrap();
}

fn criu() -> PathBuf {
    let named = std::env::var_os("KUP_TEST_CRIU").map(PathBuf::from);
    named.or_else(kup::criu::program).expect("no CRIU")
}

fn start(dir: &Path) -> Child {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SUBJECT]).current_dir(dir).env_clear();
    // The kernel writes into rseq's area whenever it moves the task to another CPU.
    python.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    python.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = python.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !dir.join("ready").exists() {
        assert!(Instant::now() < deadline, "the subject does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn dump(
    images: &Path,
    main_pid: i32,
    pages: Option<OwnedFd>,
    parent: Option<&str>,
    complete: impl FnOnce(),
) -> Result<(), Error> {
    let criu = criu();
    let dump = Dump { criu: &criu, images, main_pid, namespaces: &[], ghost_limit: 1 << 20, pages, parent };
    let mut complete = Some(complete);
    let mut complete = || {
        complete.take().unwrap()();
        true
    };
    dump.run(|| Ok(()), || Ok(Externals::default()), &mut complete)
}

fn restored(images: &Path, pid: i32) {
    let criu = criu();
    let restore =
        Restore { criu: &criu, images, place: Place::default(), files: Vec::new(), streams: Vec::new(), lazy: false };
    assert_eq!(restore.run(|_| true).unwrap(), pid);
}

/// Its memory once nothing in it changes any more.
fn settled(pid: i32, droppable: &[Range<u64>]) -> Vec<(u64, Vec<u8>)> {
    loop {
        let before = memory(pid, droppable);
        std::thread::sleep(Duration::from_millis(300));
        if memory(pid, droppable) == before {
            return before;
        }
    }
}

/// Everything that the process can write, by its addresses; but for the stack, where signals leave traces, and for what is
/// `droppable`: its owner cannot rely on it, and CRIU leaves it out from 4.2 on. Before that, it comes back as ordinary memory.
fn memory(pid: i32, droppable: &[Range<u64>]) -> Vec<(u64, Vec<u8>)> {
    let file = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = Vec::new();
    for line in maps.lines().filter(|l| l.contains(" rw") && !l.contains("[stack]") && !l.contains("[v")) {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if droppable.iter().any(|range| range.contains(&start)) {
            continue;
        }
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        memory.push((start, bytes));
    }
    memory
}

fn assert_same(before: &[(u64, Vec<u8>)], after: &[(u64, Vec<u8>)]) {
    let ranges = |m: &[(u64, Vec<u8>)]| m.iter().map(|(a, b)| (*a, b.len())).collect::<Vec<_>>();
    assert_eq!(ranges(before), ranges(after));
    for ((address, before), (_, after)) in before.iter().zip(after) {
        let Some(at) = before.iter().zip(after).position(|(b, a)| b != a) else { continue };
        let around = at / 16 * 16..at / 16 * 16 + 16;
        panic!("{:x}: {:02x?} became {:02x?}", address + at as u64, &before[around.clone()], &after[around]);
    }
}

/// Every page in FOAM is what the process had there.
fn is_as(foam: &Sealed, pid: i32, before: &[(u64, Vec<u8>)]) {
    let pages = foam.process(pid).unwrap();
    let mut compared = 0;
    for extent in pages.extents() {
        for address in (extent.start..extent.start + extent.pages * PAGE).step_by(PAGE as usize) {
            let mut page = [0; PAGE as usize];
            pages.read(address, &mut page).unwrap();
            let holds = |(start, bytes): &&(u64, Vec<u8>)| *start <= address && address < start + bytes.len() as u64;
            let Some((start, bytes)) = before.iter().find(holds) else { continue };
            assert!(bytes[(address - start) as usize..].starts_with(&page), "{address:x}");
            compared += 1;
        }
    }
    assert!(compared > 1000, "{compared} pages compared");
}
