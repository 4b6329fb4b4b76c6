//! Real userfaultfds, on this process's own memory.

mod criu;
mod death;
mod kit;
mod speed;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::mman::MmapAdvise;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use self::kit::{Criu, Image, Nobody, alone, never, service, value};
use super::{Error, Pager};
use crate::store::{Extent, Memory, PAGE};
use crate::sys::watched::{self, Watched};

/// Pages of each of the zones that are treated differently.
const ZONE: u64 = 2000;
const ZONES: u64 = 6;

/// What page `n` of the image, which begins at `start`, holds.
fn expected(start: u64, n: u64) -> u64 {
    if Image::is_hole(n) { 0 } else { value(start + n * PAGE) }
}

fn intact(memory: Watched, image: u64, pages: std::ops::Range<u64>) -> bool {
    let first = pages.start;
    pages.into_iter().all(|n| {
        let at = (n - first) * PAGE;
        let expected = expected(image, n);
        memory.read(at) == expected && memory.read(at + PAGE - 8) == expected
    })
}

/// Where zone `n` of `memory` begins.
fn zone(memory: Watched, n: u64) -> Watched {
    Watched { start: memory.start + n * ZONE * PAGE }
}

/// Whether any mapping between these addresses is still registered.
fn is_registered(start: u64, end: u64) -> bool {
    let mut inside = false;
    fs::read_to_string("/proc/self/smaps").unwrap().lines().any(|line| {
        if let Some((mapping, ..)) = crate::inspect::maps::parse(line).pop() {
            inside = mapping.start < end && mapping.end > start;
        }
        inside && line.starts_with("VmFlags:") && line.split_whitespace().any(|f| f == "um")
    })
}

#[test]
fn a_process_that_does_everything_at_once_has_its_memory() {
    alone("a_process_that_does_everything_at_once_has_its_memory", everything_at_once);
}

fn everything_at_once() {
    let uffd = watched::open().expect("userfaultfd");
    let pages = ZONE * ZONES;
    let memory = Watched::map(Some(&uffd), pages * PAGE);
    let elsewhere = Watched::map(None, ZONE * PAGE);
    let start = memory.start;
    let image: Arc<dyn Memory> = Arc::new(Image::with_holes(start, pages, Duration::from_micros(300)));
    let dir = tempfile::tempdir().unwrap();
    let pager = Pager::listen(dir.path(), 2).unwrap();
    let me = std::process::id() as i32;
    std::thread::scope(|scope| {
        let lookup = |pid| if pid == me { Ok(image.clone()) } else { Err(std::io::Error::other("who?")) };
        let pager = scope.spawn(move || pager.run(&service(&lookup, &Nobody, &never)));
        let mut criu = Criu::connect(dir.path());
        criu.task(me, &uffd);
        criu.zombie(70);
        drop(uffd);
        // Faults come before the restore is finished.
        assert_eq!(memory.read(5 * PAGE), expected(start, 5));
        assert_eq!(memory.read(39 * PAGE), 0);
        criu.finish();
        drop(criu);
        scope.spawn(|| {
            for n in (0..ZONE).step_by(7) {
                zone(memory, 0).write(n * PAGE + 64, n);
                assert_eq!(zone(memory, 0).read(n * PAGE), expected(start, n));
            }
        });
        scope.spawn(|| {
            // Freed pages are zeros, whether they were there before or not; what is written then stays.
            for n in (0..ZONE).step_by(10) {
                zone(memory, 1).advise(n * PAGE, 5 * PAGE, MmapAdvise::MADV_DONTNEED);
                zone(memory, 1).write((n + 1) * PAGE, 77);
                assert_eq!(zone(memory, 1).read(n * PAGE), 0);
            }
        });
        scope.spawn(|| {
            for n in (0..ZONE).step_by(100) {
                let target = Watched { start: elsewhere.start + n * PAGE };
                zone(memory, 2).remap(n * PAGE, 100 * PAGE, target);
                assert!(intact(target, start, 2 * ZONE + n..2 * ZONE + n + 100));
            }
        });
        scope.spawn(|| zone(memory, 3).unmap(0, ZONE * PAGE));
        scope.spawn(|| {
            for _ in 0..5 {
                let child = watched::fork(|| i32::from(!intact(zone(memory, 4), start, 4 * ZONE..5 * ZONE)));
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        });
        let report = pager.join().unwrap().unwrap();
        assert!(report.faults > 0 && report.filled > 0, "{report:?}");
    });
    assert!((0..ZONE).step_by(7).all(|n| zone(memory, 0).read(n * PAGE + 64) == n));
    for n in 0..ZONE {
        let freed = n % 10 < 5;
        let value = if n % 10 == 1 { 77 } else { expected(start, ZONE + n) };
        assert_eq!(zone(memory, 1).read(n * PAGE), if freed && n % 10 != 1 { 0 } else { value }, "page {n}");
    }
    assert!(intact(elsewhere, start, 2 * ZONE..3 * ZONE));
    assert!(intact(zone(memory, 4), start, 4 * ZONE..6 * ZONE));
    assert!(
        !is_registered(start, start + pages * PAGE) && !is_registered(elsewhere.start, elsewhere.start + ZONE * PAGE)
    );
}

#[test]
fn who_would_read_what_cannot_be_read_is_killed_first() {
    alone("who_would_read_what_cannot_be_read_is_killed_first", unreadable);
}

fn unreadable() {
    let uffd = watched::open().expect("userfaultfd");
    let memory = Watched::map(Some(&uffd), 100 * PAGE);
    let bad = Some(memory.start + 50 * PAGE);
    let extents = vec![Extent { start: memory.start, pages: 100, lazy: true }];
    let image: Arc<dyn Memory> = Arc::new(Image { extents, slow: Duration::ZERO, bad });
    let dir = tempfile::tempdir().unwrap();
    let pager = Pager::listen(dir.path(), 1).unwrap();
    let victim = Mutex::new(None::<Pid>);
    let (ready, told) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let lost = |error: &Error| {
            told.store(matches!(error, Error::Lost { pid: 7, .. }), Ordering::SeqCst);
            while !ready.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            kill(victim.lock().unwrap().unwrap(), Signal::SIGKILL).unwrap();
        };
        let pager = scope.spawn({
            let image = &image;
            move || pager.run(&service(&|_| Ok(image.clone()), &Nobody, &lost))
        });
        let mut criu = Criu::connect(dir.path());
        criu.task(7, &uffd);
        drop(uffd);
        *victim.lock().unwrap() = Some(watched::fork(|| {
            memory.read(50 * PAGE);
            0
        }));
        ready.store(true, Ordering::SeqCst);
        let error = pager.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    });
    assert!(told.load(Ordering::SeqCst));
    let victim = victim.lock().unwrap().unwrap();
    assert_eq!(waitpid(victim, None).unwrap(), WaitStatus::Signaled(victim, Signal::SIGKILL, false));
}

#[test]
fn huge_pages_come_back_where_the_kernel_can() {
    const HUGE: u64 = 2 << 20;
    let memory = Watched::map(None, 2 * HUGE);
    (0..2 * HUGE).step_by(PAGE as usize).for_each(|at| memory.write(at, value(at)));
    let ranges = [(std::process::id() as i32, memory.start..memory.start + 2 * HUGE), (i32::MAX, 0..HUGE)];
    let made = super::collapse::all(&ranges);
    assert!(made <= 2);
    assert!((0..2 * HUGE).step_by(PAGE as usize).all(|at| memory.read(at) == value(at)));
    println!("{made} huge pages");
}

#[test]
fn a_restore_that_fails_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let pager = Pager::listen(dir.path(), 2).unwrap();
    let mut criu = Criu::connect(dir.path());
    criu.zombie(7);
    drop(criu);
    let error = pager.run(&service(&|_| Err(std::io::Error::other("none")), &Nobody, &never)).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}
