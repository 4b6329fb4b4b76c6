//! The main job: stock services live through an apt kernel upgrade.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use crate::client::download::Download;
use crate::client::memcached::Keys;
use crate::client::{Pulse, memcached, redis, testserver};
use crate::guest::{self, Service};
use crate::ready::{self, READY, UNITS};
use crate::runner::context::Ctx;
use crate::vm::Vm;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update",
    about: "memcached, redis, nginx and the test server live through an apt kernel upgrade: PIDs, memory, connections",
    from: READY,
    all_only: false,
    run,
};

/// 128 MiB each.
const KEYS: Keys = Keys { count: 16 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = start_services(ctx, KEYS)?;
    let apt = ctx.install_new_kernel()?;
    expect_hint(ctx, &apt)?;
    let (before, initrd) = (observe(ctx)?, stock_initrd(ctx)?);
    let clients = Clients::start(ctx, KEYS)?;
    let (record, longest) = update_and_compare(ctx, &services, &before, clients)?;
    for (name, took) in guest::phases(&record) {
        ctx.figure(&name, took, "s");
    }
    ctx.figure("client's longest gap against kup's own", longest / guest::gap(&record)?, "times");
    verify(ctx, KEYS)?;
    expect_small_initrd(ctx, &initrd)
}

/// Size and time of the initrd that the distribution has made for the target.
fn stock_initrd(ctx: &Ctx) -> Result<String> {
    ctx.vm.ssh(&format!("stat -c '%s %Y' /boot/initrd.img-{}", ctx.about().new_kernel))
}

/// The target has begun with an initrd for this machine alone; the boot loader keeps the distribution's, as it was `before`.
fn expect_small_initrd(ctx: &mut Ctx, before: &str) -> Result<()> {
    let used = ctx.vm.ssh("journalctl -b -k -o cat | sed -n 's/^Freeing initrd memory: \\([0-9]*\\)K$/\\1/p'")?;
    let used: u64 = used.trim().parse().context("the kernel does not say how large its initrd was")?;
    ensure!(stock_initrd(ctx)? == before, "the boot loader's initrd has changed");
    let stock = before.split(' ').next().unwrap_or_default().parse::<u64>()? >> 10;
    ctx.figure("initrd: the distribution's", stock as f64, "KiB");
    ctx.figure("initrd: the one that was used", used as f64, "KiB");
    ensure!(used < stock, "the target has begun with {used} KiB, the distribution's initrd has {stock} KiB");
    Ok(())
}

/// An update of services that are filled here: they go on as they were, connections included.
pub fn update_filled(ctx: &mut Ctx, keys: Keys) -> Result<()> {
    let services = fill(ctx, keys)?;
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, keys)?;
    update_and_compare(ctx, &services, &before, clients)?;
    verify(ctx, keys)
}

/// `kup update` to the new kernel; gives its record, and the longest blackout that a client saw, in seconds.
fn update_and_compare(
    ctx: &mut Ctx,
    services: &[Service],
    before: &Observed,
    clients: Clients,
) -> Result<(Value, f64)> {
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)?;
    let longest = clients.finish(ctx)?;
    expect_same(ctx, services, before)?;
    Ok((record, longest))
}

/// In manual mode, apt's last line says what to run.
fn expect_hint(ctx: &Ctx, apt: &str) -> Result<()> {
    let (new, count) = (&ctx.about().new_kernel, UNITS.len());
    let hint =
        format!("kup: kernel {new} is staged; 'kup update' switches to it and keeps {count} marked services running");
    let last = apt.trim_end().lines().next_back().unwrap_or_default();
    ensure!(last == hint, "apt's last line is {last:?}, not {hint:?}");
    Ok(())
}

/// Marks and fills the services; gives what systemd says of them.
pub fn start_services(ctx: &mut Ctx, keys: Keys) -> Result<Vec<Service>> {
    ctx.step(&format!("kup preserve {}", UNITS.join(" ")));
    ready::mark(&ctx.vm)?;
    fill(ctx, keys)
}

/// Fills the marked services; gives what systemd says of them.
pub fn fill(ctx: &mut Ctx, keys: Keys) -> Result<Vec<Service>> {
    ctx.step("filling memcached and redis");
    ctx.vm.peer().enter(|| memcached::fill(keys).and_then(|()| redis::fill(keys)))??;
    UNITS.iter().map(|u| guest::service(&ctx.vm, u)).collect()
}

/// What must be the same after an update, beside systemd's view.
#[derive(Debug)]
pub struct Observed {
    run_id: String,
    start_id: String,
    boot: String,
}

/// Observes.
pub fn observe(ctx: &mut Ctx) -> Result<Observed> {
    let boot = ctx.vm.boot_id()?;
    ctx.vm.peer().enter(|| {
        testserver::check()?;
        testserver::log("line from before")?;
        Ok(Observed { run_id: redis::run_id()?, start_id: start_id()?, boot })
    })?
}

fn start_id() -> Result<String> {
    Ok(testserver::state()?["start"].to_string())
}

/// Fails unless every process is the one that it was.
pub fn expect_same(ctx: &mut Ctx, services: &[Service], before: &Observed) -> Result<()> {
    expect_running(ctx, services)?;
    ctx.vm.peer().enter(|| {
        testserver::check()?;
        testserver::log("line from after")?;
        ensure!(redis::run_id()? == before.run_id, "redis has another run_id");
        ensure!(start_id()? == before.start_id, "the test server was started again");
        Ok::<_, anyhow::Error>(())
    })??;
    expect_journal(&ctx.vm, &before.boot)
}

/// The same of two of them alone, from outside: redis with its keys, and the test server.
pub fn expect_redis_and_testserver(ctx: &Ctx, keys: Keys, run_id: &str) -> Result<()> {
    ctx.vm.peer().enter(|| {
        testserver::check()?;
        redis::verify(keys)?;
        ensure!(redis::run_id()? == run_id, "redis has another run_id");
        Ok(())
    })?
}

/// Fails unless systemd says of the services what it said.
pub fn expect_running(ctx: &mut Ctx, services: &[Service]) -> Result<()> {
    ctx.step("comparing with before");
    for (unit, was) in UNITS.iter().zip(services) {
        let is = guest::service(&ctx.vm, unit)?;
        ensure!(is == *was && is.restarts == 0, "{unit} was {was:?} and is {is:?}");
    }
    Ok(())
}

/// The unit's lines go on in the journal of the new boot.
fn expect_journal(vm: &Vm, boot: &str) -> Result<()> {
    let line = |boot: &str, text: &str| {
        let boot = boot.replace('-', "");
        let command = format!("journalctl --sync; journalctl -b {boot} -u kup-testserver -o cat | grep -Fx '{text}'");
        vm.ssh(&command).with_context(|| format!("'{text}' is not in the journal"))
    };
    line(boot, "line from before")?;
    line(&vm.boot_id()?, "line from after").map(drop)
}

/// Fails unless every key is there.
pub fn verify(ctx: &mut Ctx, keys: Keys) -> Result<()> {
    ctx.step("reading every key");
    ctx.vm.peer().enter(|| memcached::verify(keys).and_then(|()| redis::verify(keys)))?
}

/// One client for each service.
#[derive(Debug)]
pub struct Clients {
    pulses: Vec<(&'static str, Pulse)>,
    /// A download under way, and the checksum that it must have.
    download: Option<(Download, String)>,
}

impl Clients {
    /// Starts clients that ask, and a download.
    pub fn start(ctx: &mut Ctx, keys: Keys) -> Result<Self> {
        let clients = Self::connect(ctx, keys)?;
        let sum = ctx.vm.ssh("sha256sum /var/www/html/large")?;
        let sum = sum.split_whitespace().next().unwrap_or_default().to_owned();
        let download = Download::start(ctx.vm.peer(), "/large")?;
        std::thread::sleep(Duration::from_secs(2));
        ensure!(download.runs(), "the download ended before the update");
        Ok(Self { download: Some((download, sum)), ..clients })
    }

    /// Starts clients that ask.
    pub fn connect(ctx: &mut Ctx, keys: Keys) -> Result<Self> {
        ctx.step("clients connect");
        let peer = ctx.vm.peer();
        let pulses = vec![
            ("memcached", Pulse::start("memcached", peer, move || memcached::Client::connect(keys))?),
            ("redis", Pulse::start("redis", peer, move || redis::Client::connect(keys))?),
            ("test server", Pulse::start("test server", peer, testserver::Client::connect)?),
        ];
        Ok(Self { pulses, download: None })
    }

    /// How many connections they hold.
    pub fn count(&self) -> usize {
        self.pulses.len() + usize::from(self.download.is_some())
    }

    /// Lets them end; none may have lost its connection or got a wrong answer. Gives the longest blackout in seconds.
    pub fn finish(self, ctx: &mut Ctx) -> Result<f64> {
        let mut longest = 0.0_f64;
        for (name, pulse) in self.pulses {
            let rhythm = pulse.stop()?;
            ctx.step(&format!("{name}: {} answers on one connection", rhythm.requests));
            ctx.figure(&format!("blackout seen by the client of {name}"), rhythm.blackout.as_secs_f64(), "s");
            longest = longest.max(rhythm.blackout.as_secs_f64());
        }
        if let Some((download, sum)) = self.download {
            ctx.step("waiting for the download's end");
            ensure!(download.finish()? == sum, "what nginx sent is not the file");
        }
        Ok(longest)
    }
}
