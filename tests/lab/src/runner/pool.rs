//! Machines that take scenarios from a queue.

use std::any::Any;
use std::collections::VecDeque;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::collect;
use super::context::Ctx;
use super::report::Report;
use super::rundir::{self, RunDir};
use crate::cli::Storage;
use crate::guest;
use crate::image::{Firmware, Image};
use crate::interactive::prepare_host;
use crate::paths;
use crate::ready::{self, STAGED};
use crate::scenario::{self, Scenario};
use crate::sh;
use crate::vm::{Spec, Vm, detached, namespace};

/// No scenario takes that long (the tables of faults are the longest, but for a soak); one that does hangs.
const LIMIT: Duration = Duration::from_secs(80 * 60);
/// The same where time is short.
const SHORT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How much of the console of a machine that hangs is shown, bytes.
const SHOWN: usize = 4000;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Machines at a time.
    pub jobs: usize,
    /// Stop at the first failure and leave its machine running?
    pub keep: bool,
    /// Are steps told on the terminal?
    pub aloud: bool,
    /// When nothing is begun any more that is not of the core; `None`: never.
    pub until: Option<Instant>,
    /// Memory of a machine in MiB.
    pub memory: u32,
    /// How long a scenario may take where there is time.
    pub limit: Duration,
    /// Where services' memory is over the switch; `None`: where kup has it.
    pub storage: Option<Storage>,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: 1, keep: false, aloud: false, until: None, memory: 2048, limit: LIMIT, storage: None }
    }
}

/// What all machines share.
struct Pool<'a> {
    queue: Mutex<VecDeque<&'static Scenario>>,
    report: &'a Report,
    prepared: Vec<Prepared>,
    /// Directory of this run's disks.
    dir: PathBuf,
    options: Options,
}

/// Where machines of one kind start from.
struct Prepared {
    image: Image,
    disk: PathBuf,
}

/// Runs the scenarios and counts them in the report.
pub fn run(scenarios: &[&'static Scenario], options: Options, report: &Report) -> Result<()> {
    if scenarios.is_empty() {
        return Ok(());
    }
    if options.keep && detached()?.is_some() {
        bail!("--keep would take the place of the machine that runs detached: `cargo lab vm --stop` ends it");
    }
    let dir = RunDir::create()?;
    let mut prepared = Vec::new();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let states: Vec<&str> = scenarios.iter().map(|s| s.from).filter(|s| ready::firmware(s) == firmware).collect();
        if !states.is_empty() {
            prepared.push(prepare(firmware, &states, dir.path(), options)?);
        }
    }
    let pool = Pool {
        queue: Mutex::new(scenarios.iter().copied().collect()),
        report,
        prepared,
        dir: dir.path().to_owned(),
        options,
    };
    let machines = if options.keep { 1 } else { options.jobs.min(scenarios.len()) };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..machines)
            .map(|number| {
                scope.spawn({
                    let pool = &pool;
                    move || pool.work(number)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|panic| anyhow!("{}", words(&*panic)))?)
    })?;
    let left = pool.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.not_run(&left.iter().map(|scenario| scenario.name).collect::<Vec<_>>());
    Ok(())
}

/// Makes the saved states that scenarios start from, on one disk.
fn prepare(firmware: Firmware, states: &[&str], dir: &Path, options: Options) -> Result<Prepared> {
    let image = prepare_host(firmware)?;
    let spec = Spec { memory: options.memory, ..Spec::new(dir.join(ready::first_state(&image)), &image) };
    let disk = spec.disk();
    let vm = ready::prepare(spec)?;
    if states.contains(&STAGED) {
        ready::stage(&vm)?;
    }
    vm.quit()?;
    Ok(Prepared { image, disk })
}

impl Pool<'_> {
    /// One machine's life: scenario after scenario until the queue is empty.
    fn work(&self, number: usize) -> Result<()> {
        while let Some(scenario) = self.next() {
            let dir = paths::lab().join("logs").join(scenario.name);
            fresh_dir(&dir)?;
            let started = Instant::now();
            let ctx = self
                .machine(number, &dir, scenario.from)
                .with_context(|| format!("no machine for {}", scenario.name))?;
            let (console, console_from) = (ctx.vm.spec().serial(), ctx.vm.serial_log().len());
            let limit = if self.options.until.is_some() { SHORT_LIMIT } else { self.options.limit };
            let netns = ctx.vm.peer().name().to_owned();
            let Some((ctx, result)) = run_limited(scenario, ctx, limit) else {
                namespace::clear(&netns)?;
                fs::copy(&console, dir.join("console.txt"))?;
                self.report.failed(scenario.name, &format!("did not end within {limit:?}; logs in {}", dir.display()));
                self.report.said(sh::tail(&String::from_utf8_lossy(&fs::read(console)?), SHOWN));
                continue;
            };
            match result {
                Ok(()) => {
                    self.report.ok(scenario.name, started.elapsed());
                    self.report.figures(scenario.name, &ctx.figures, ctx.table.as_deref());
                    fs::remove_dir_all(&dir).ok();
                }
                Err(error) => {
                    self.fail(scenario, &ctx, console_from, &error);
                    if self.options.keep {
                        return keep(ctx, &self.dir);
                    }
                }
            }
        }
        Ok(())
    }

    fn fail(&self, scenario: &Scenario, ctx: &Ctx, console_from: usize, error: &anyhow::Error) {
        let collected = collect::evidence(ctx, console_from, error);
        let note = collected.map_or_else(|error| format!(" (incomplete: {error:#})"), |()| String::new());
        self.report.failed(scenario.name, &format!("{error:#}; logs in {}{note}", ctx.dir.display()));
        self.report.said(&fs::read_to_string(ctx.dir.join(collect::SAID)).unwrap_or_default());
    }

    fn next(&self) -> Option<&'static Scenario> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let core = |scenario: &Scenario| scenario::ALL[..scenario::CORE].iter().any(|s| s.name == scenario.name);
        let late = self.options.until.is_some_and(|until| Instant::now() > until);
        queue.front().is_some_and(|scenario| !late || core(scenario)).then(|| queue.pop_front())?
    }

    /// A machine started from the prepared state.
    fn machine(&self, number: usize, dir: &Path, from: &str) -> Result<Ctx> {
        let Options { keep: detached, memory, aloud, storage, .. } = self.options;
        let fits = |p: &&Prepared| p.image.about.firmware == ready::firmware(from);
        let Prepared { image, disk } = self.prepared.iter().find(fits).context("nothing is prepared for it")?;
        let spec = Spec { detached, memory, ..Spec::new(self.dir.join(number.to_string()), image) };
        let vm = Vm::copy_of(disk, spec, from)?;
        if let Some(storage) = storage {
            let name = match storage {
                Storage::Disk => "disk",
                Storage::Ram => "ram",
            };
            // Ahead of what scenarios choose for themselves.
            guest::settings(&vm, "00-lab", &format!("Storage = \"{name}\"\n"))?;
        }
        let mut ctx = Ctx::new(vm, dir.to_owned());
        ctx.aloud = aloud;
        Ok(ctx)
    }
}

/// Runs a scenario on a thread of its own; `None` when it does not come back.
fn run_limited(scenario: &'static Scenario, mut ctx: Ctx, limit: Duration) -> Option<(Ctx, Result<()>)> {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&mut ctx)));
        let result = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", words(&*panic))));
        done.send((ctx, result)).ok();
    });
    result.recv_timeout(limit).ok()
}

fn keep(ctx: Ctx, dir: &Path) -> Result<()> {
    ctx.vm.detach()?;
    rundir::keep(dir)?;
    println!("lab: the machine runs on: `cargo lab vm --shell`, `cargo lab vm --stop`");
    Ok(())
}

fn fresh_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    paths::ensure(dir)
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
