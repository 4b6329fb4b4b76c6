//! Requests per second over time through a change of kernel: by kexec with an empty cache afterwards, and by kup.

use std::fmt::Write;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::by_kup::{self, Store};
use super::chart;
use crate::client::memcached::{self, Keys};
use crate::guest::{self, LOAD_AGAIN};
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::runner::table::Table;
use crate::scenario::Scenario;
use crate::vm::{BOOT_LIMIT, Vm};

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "throughput",
    about: "requests per second of a cache through kexec (empty afterwards) and kup (disk, RAM), as CSV and SVG; time back to 90 %",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys::mib(64);
/// What the database takes that is asked where the cache has nothing.
const DATABASE: Duration = Duration::from_millis(5);
/// How long is measured before the change, in seconds.
const BEFORE: usize = 20;
/// How long to wait for the old throughput.
const LIMIT: Duration = Duration::from_secs(400);
/// A client gives up an answer, and connects anew, after that.
const PATIENCE: Duration = Duration::from_secs(1);

fn run(ctx: &mut Ctx) -> Result<()> {
    by_kup::memcached_alone(ctx)?;
    let (disk, ram) = (kup(ctx, Store::Disk)?, kup(ctx, Store::Ram)?);
    let kexec = measure(ctx, |ctx| {
        let before = ctx.vm.boot_id()?;
        ctx.step("systemctl kexec");
        ctx.vm.ssh(&format!("{LOAD_AGAIN} && systemctl kexec --no-block"))?;
        ctx.vm.wait_new_boot(&before, BOOT_LIMIT)
    })?;
    let series = [("kup, disk", &disk), ("kup, RAM", &ram), ("kexec, empty cache", &kexec)];
    write(ctx, &series)?;
    let mut table = Table::new(&[("before", "requests/s"), ("no answer", "s"), ("back to 90 %", "s")]);
    for (name, counts) in series {
        let seen = Seen::of(counts);
        table.row(name, &[Some(seen.before), Some(seen.dark as f64), seen.back.map(|s| s as f64)]);
    }
    table.note(format!("both times from the first second without an answer; a miss costs {DATABASE:?} and one store"));
    ctx.table(&table);
    Ok(())
}

/// An update. What it keeps is all there; what a kexec loses is not looked for.
fn kup(ctx: &mut Ctx, store: Store) -> Result<Vec<u32>> {
    store.choose(ctx)?;
    let target = guest::other_kernel(ctx)?;
    let counts = measure(ctx, |ctx| {
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &["memcached.service"])
    })?;
    ctx.vm.peer().enter(|| memcached::verify(KEYS))??;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    Ok(counts)
}

/// Fills the cache and has a client at work while the kernel changes, and after it until the throughput is what it was.
fn measure(ctx: &mut Ctx, change: impl FnOnce(&mut Ctx) -> Result<()>) -> Result<Vec<u32>> {
    ctx.vm.peer().enter(|| memcached::fill(KEYS))??;
    let load = Load::start(&ctx.vm)?;
    std::thread::sleep(Duration::from_secs(BEFORE as u64));
    change(ctx)?;
    ctx.step("until the throughput is what it was");
    let deadline = Instant::now() + LIMIT;
    while Seen::of(&load.so_far()).back.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
    }
    load.stop()
}

fn write(ctx: &mut Ctx, series: &[(&str, &Vec<u32>)]) -> Result<()> {
    let dir = super::dir()?;
    let mut csv = String::from("second");
    csv.extend(series.iter().map(|(name, _)| format!(",{}", name.replace(',', ""))));
    for second in 0..series.iter().map(|(_, counts)| counts.len()).max().unwrap_or(0) {
        let _ = write!(csv, "\n{second}");
        for (_, counts) in series {
            let _ = write!(csv, ",{}", counts.get(second).map(u32::to_string).unwrap_or_default());
        }
    }
    csv.push('\n');
    let svg = chart::svg("memcached through a change of kernel", "requests per second", series, BEFORE);
    for (name, text) in [("throughput.csv", csv), ("throughput.svg", svg)] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("lab: {}", path.display());
        ctx.step(&format!("written: {}", path.display()));
    }
    Ok(())
}

/// What the counts of each second say.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Requests per second before the change.
    before: f64,
    /// Seconds without an answer, one after the other.
    dark: usize,
    /// Seconds from the first one without an answer until 90 % of the throughput before, over three seconds.
    back: Option<usize>,
}

impl Seen {
    fn of(counts: &[u32]) -> Self {
        let mean = |counts: &[u32]| counts.iter().sum::<u32>() as f64 / counts.len().max(1) as f64;
        let (first, rest) = counts.split_at(counts.len().min(BEFORE));
        let before = mean(first);
        let Some(dark_at) = rest.iter().position(|n| *n == 0) else { return Self { before, dark: 0, back: None } };
        let rest = &rest[dark_at..];
        let dark = rest.iter().take_while(|n| **n == 0).count();
        let back = rest.windows(3).skip(dark).position(|w| mean(w) >= 0.9 * before).map(|n| n + dark);
        Self { before, dark, back }
    }
}

/// A client of a cache: asks for keys in no order and, where the cache has nothing, the database, and stores what that says.
struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<std::sync::Mutex<Vec<u32>>>,
    thread: JoinHandle<Result<Result<()>>>,
}

impl Load {
    fn start(vm: &Vm) -> Result<Self> {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, counting) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = vm.peer().spawn(move || work(&stopped, &counting))?;
        Ok(Self { stop, counts, thread })
    }

    /// Answers in each whole second.
    fn so_far(&self) -> Vec<u32> {
        let mut counts = self.counts.lock().unwrap_or_else(|e| e.into_inner()).clone();
        counts.pop();
        counts
    }

    fn stop(self) -> Result<Vec<u32>> {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.so_far();
        self.thread.join().map_err(|_| anyhow!("the client panicked"))???;
        Ok(counts)
    }
}

fn work(stopped: &AtomicBool, counts: &std::sync::Mutex<Vec<u32>>) -> Result<()> {
    let (begun, mut connection, mut random) = (Instant::now(), None, 1_u64);
    let count = |answers: u32| {
        let second = begun.elapsed().as_secs() as usize;
        let mut counts = counts.lock().unwrap_or_else(|e| e.into_inner());
        if counts.len() <= second {
            counts.resize(second + 1, 0);
        }
        counts[second] += answers;
    };
    while !stopped.load(Ordering::Relaxed) {
        // A second without an answer counts, too.
        count(0);
        random = random.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let key = (random >> 33) % KEYS.count;
        let answered = match connection.take().map_or_else(|| memcached::Cache::connect(KEYS, PATIENCE), Ok) {
            Err(_) => None,
            Ok(mut cache) => cache
                .get(key)
                .and_then(|hit| {
                    if !hit {
                        std::thread::sleep(DATABASE);
                        cache.set(key)?;
                    }
                    Ok(cache)
                })
                .map(Some)
                .or_else(|e| if e.is::<memcached::Wrong>() { Err(e) } else { Ok(None) })?,
        };
        match answered {
            Some(cache) => {
                connection = Some(cache);
                count(1);
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_counted_from_the_first_dark_second() {
        let mut counts = vec![100; BEFORE + 5];
        assert_eq!(Seen::of(&counts), Seen { before: 100.0, dark: 0, back: None });
        counts.extend([0, 0, 0, 50, 60, 100, 100, 100]);
        assert_eq!(Seen::of(&counts), Seen { before: 100.0, dark: 3, back: Some(5) });
        counts.truncate(BEFORE + 9);
        assert_eq!(Seen::of(&counts).back, None);
    }
}
