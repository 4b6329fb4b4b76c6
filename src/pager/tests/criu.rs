//! With CRIU itself, as root: `cargo test -p kup pager::tests::criu -- --ignored`. KUP_TEST_CRIU names another CRIU than the
//! installed one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::mman::MmapAdvise;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;

use super::kit::{Nobody, alone, never, service, value};
use crate::criu::{Restore, first_error};
use crate::pager::{Pager, socket};
use crate::store::{Extent, Memory, PAGE};
use crate::sys::spawn::Place;
use crate::sys::watched::{self, Watched};

const TEST: &str = "criu::a_restored_process_has_its_memory";
/// Where the process that is dumped waits for `go` and says `ok`.
const VICTIM: &str = "KUP_PAGER_TEST_VICTIM";
const PAGES: u64 = 50_000;

#[derive(Clone, PartialEq, Message)]
struct Head {
    #[prost(uint32, required, tag = "1")]
    pages: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    address: u64,
    #[prost(uint32, optional, tag = "2")]
    count: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pages: Option<u64>,
}

/// The memory in a plain dump of CRIU's.
struct Plain {
    extents: Vec<Extent>,
    offsets: BTreeMap<u64, u64>,
    pages: File,
}

impl Plain {
    fn open(images: &Path, pid: i32) -> io::Result<Self> {
        const LAZY: u32 = 2;
        let image = fs::read(images.join(format!("pagemap-{pid}.img")))?;
        let mut rest = &image[8..];
        let mut next = || {
            let (size, after) = rest.split_at_checked(4)?;
            let (entry, after) = after.split_at(u32::from_le_bytes(size.try_into().unwrap()) as usize);
            rest = after;
            Some(entry)
        };
        let head = Head::decode(next().unwrap()).unwrap();
        let (mut extents, mut offsets, mut offset) = (Vec::new(), BTreeMap::new(), 0);
        while let Some(entry) = next() {
            let entry = Entry::decode(entry).unwrap();
            let pages = entry.pages.unwrap_or(entry.count.unwrap_or(0).into());
            extents.push(Extent { start: entry.address, pages, lazy: entry.flags.unwrap_or(0) & LAZY != 0 });
            offsets.insert(entry.address, offset);
            offset += pages * PAGE;
        }
        Ok(Self { extents, offsets, pages: File::open(images.join(format!("pages-{}.img", head.pages)))? })
    }
}

impl Memory for Plain {
    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()> {
        // So slow that much is still missing while the process works.
        std::thread::sleep(Duration::from_millis(5));
        let (start, offset) = self.offsets.range(..=address).next_back().unwrap();
        self.pages.read_exact_at(data, offset + (address - start))
    }
}

/// The process that is dumped: it works as soon as it finds `go`.
fn victim(dir: &Path) {
    let memory = Watched::map(None, PAGES * PAGE);
    let elsewhere = Watched::map(None, 1000 * PAGE);
    (0..PAGES).for_each(|n| memory.write(n * PAGE, value(n)));
    fs::write(dir.join("ready"), "").unwrap();
    while !dir.join("go").exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begin = Instant::now();
    memory.advise(1000 * PAGE, 1000 * PAGE, MmapAdvise::MADV_DONTNEED);
    memory.remap(2000 * PAGE, 1000 * PAGE, elsewhere);
    let late = || (49_000..PAGES).all(|n| memory.read(n * PAGE) == value(n));
    let child = watched::fork(|| i32::from(!late()));
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    let freed = (1000..2000).all(|n| memory.read(n * PAGE) == 0);
    let moved = (0..1000).all(|n| elsewhere.read(n * PAGE) == value(2000 + n));
    let soon = begin.elapsed();
    let rest = (3000..PAGES).all(|n| memory.read(n * PAGE) == value(n));
    let report = format!("{status:?} {freed} {moved} {rest}; {soon:?} of {:?}", begin.elapsed());
    fs::write(dir.join("report.new"), report).unwrap();
    fs::rename(dir.join("report.new"), dir.join("report")).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
#[ignore = "needs CRIU, and root"]
fn a_restored_process_has_its_memory() {
    match std::env::var(VICTIM) {
        Ok(dir) => victim(Path::new(&dir)),
        Err(_) => alone(TEST, dump_and_restore),
    }
}

fn wait_for(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no {}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn dump_and_restore() {
    let criu = std::env::var_os("KUP_TEST_CRIU").map(PathBuf::from).or_else(crate::criu::program).expect("no CRIU");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe().unwrap()).args([&format!("pager::tests::{TEST}"), "--exact", "--ignored"]);
    command.env(VICTIM, dir.path()).current_dir("/");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id() as i32;
    wait_for(&dir.path().join("ready"));
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let dump = Command::new(&criu).args(["dump", "-t", &pid.to_string(), "-o", "dump.log", "-D"]).arg(&images).status();
    assert!(dump.unwrap().success(), "{:?}", first_error(&images.join("dump.log")));
    child.wait().unwrap();

    let pager = Pager::listen(&images, socket::count_tasks(&images).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let pager = scope.spawn({
            let images = &images;
            move || pager.run(&service(&|pid| Ok(Arc::new(Plain::open(images, pid)?)), &Nobody, &never))
        });
        let begin = Instant::now();
        let place = Place::default();
        let restore =
            Restore { criu: &criu, images: &images, place, files: Vec::new(), streams: Vec::new(), lazy: true };
        fs::write(dir.path().join("go"), "").unwrap();
        assert_eq!(restore.run(|_| true).unwrap(), pid);
        println!("restored in {:?}", begin.elapsed());
        println!("{:?} after {:?}", pager.join().unwrap().unwrap(), begin.elapsed());
    });
    wait_for(&dir.path().join("report"));
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    println!("{report}");
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    assert!(report.contains("Exited(") && report.contains(", 0) true true true"), "{report}");
    let watched = smaps.lines().any(|l| l.starts_with("VmFlags:") && l.split_whitespace().any(|f| f == "um"));
    assert!(!watched, "its memory is ordinary");
}
