//! kup's side of a comparison: one update that memcached alone lives through, while a client writes.

use anyhow::Result;

use crate::client::Pulse;
use crate::client::memcached::{self, Keys};
use crate::guest;
use crate::ready::units_but;
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// The one unit.
const UNIT: &str = "memcached.service";

/// Where kup keeps the memory over the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In one sparse file per process.
    Disk,
    /// In RAM alone: what a reset would lose.
    Ram,
    /// In RAM, and once more on the disk for the way back to the old kernel.
    RamAndDisk,
}

impl Store {
    fn settings(self) -> &'static str {
        match self {
            Self::Disk => "Storage = \"disk\"\n",
            Self::Ram => "Storage = \"ram\"\nFallback = \"none\"\n",
            Self::RamAndDisk => "Storage = \"ram\"\nFallback = \"disk\"\n",
        }
    }

    /// Has updates use it from now on.
    pub fn choose(self, ctx: &mut Ctx) -> Result<()> {
        ctx.step(&format!("{self:?}"));
        guest::settings(&ctx.vm, "bench", self.settings())
    }
}

/// What an update took, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// From the freeze until the images are on the disk.
    pub checkpoint: f64,
    /// From where restoring begins, images verified, until the tasks run.
    pub restore: f64,
    /// What the client saw.
    pub blackout: f64,
}

/// Takes the marks of the other services away.
pub fn memcached_alone(ctx: &mut Ctx) -> Result<()> {
    ctx.vm.ssh(&format!("kup release {}", units_but(&[UNIT]))).map(drop)
}

/// Fills a fresh memcached and updates to the machine's other kernel, while `written` percent of the memory are written
/// again and again. Verified: every key is there.
pub fn update(ctx: &mut Ctx, keys: Keys, written: u64) -> Result<Took> {
    ctx.step("memcached as a service");
    guest::restart_memcached(&ctx.vm, keys.allowance())?;
    ctx.vm.peer().enter(|| memcached::fill(keys))??;
    let hot = keys.percent(written);
    let client = match written {
        0 => Pulse::start("memcached", ctx.vm.peer(), move || memcached::Client::connect(keys))?,
        _ => Pulse::start("memcached", ctx.vm.peer(), move || memcached::Writer::connect(hot))?,
    };
    let target = guest::other_kernel(ctx)?;
    let record = guest::update(ctx, &format!("--target {target}"))?;
    guest::expect_done(&record, &[UNIT])?;
    let blackout = client.stop()?.blackout.as_secs_f64();
    for (name, took) in guest::phases(&record) {
        ctx.step(&format!("{name}: {took:.3} s"));
    }
    ctx.step(&format!("stored in rounds: {}", record["units"][UNIT]["rounds"]));
    ctx.step("reading every key");
    ctx.vm.peer().enter(|| memcached::verify(keys))??;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    let out = ctx.vm.ssh("journalctl -b -o cat -t kup-worker | grep -E 'all its memory|ordinary memory'")?;
    out.lines().for_each(|line| ctx.step(line));
    let checkpoint = guest::took(&record, &["freeze and dump"])?;
    Ok(Took { checkpoint, restore: guest::took(&record, &["verify", "restore"])?, blackout })
}
