//! kup's side of a comparison: one update that memcached alone lives through, while a client writes.

use anyhow::{Context, Result};
use serde_json::Value;

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
    /// In one sparse file per unit.
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
    /// In which rounds the memory was stored.
    pub rounds: Rounds,
}

/// How memory was stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounds {
    /// How many were made while the unit ran.
    pub ahead: usize,
    /// MiB that were left to be stored while it stood still.
    pub left: f64,
}

impl Rounds {
    /// Those of the unit; the last one is what was stored while it stood still.
    fn of(record: &Value) -> Result<Self> {
        let rounds = record["units"][UNIT]["rounds"].as_array().map_or(&[][..], Vec::as_slice);
        let (last, ahead) = rounds.split_last().context("the record does not say in which rounds memory was stored")?;
        let bytes = last["bytes"].as_u64().context("a round of the record has no bytes")?;
        Ok(Self { ahead: ahead.len(), left: bytes as f64 / f64::from(1 << 20) })
    }
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
    let rounds = Rounds::of(&record)?;
    ctx.step(&format!("stored in rounds: {}", record["units"][UNIT]["rounds"]));
    ctx.step("reading every key");
    ctx.vm.peer().enter(|| memcached::verify(keys))??;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    let out = ctx.vm.ssh("journalctl -b -o cat -t kup-worker | grep -E 'all its memory|ordinary memory'")?;
    out.lines().for_each(|line| ctx.step(line));
    let checkpoint = guest::took(&record, &["freeze and dump"])?;
    Ok(Took { checkpoint, restore: guest::took(&record, &["verify", "restore"])?, blackout, rounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_round_is_what_was_left() {
        let record = |rounds: Value| serde_json::json!({ "units": { UNIT: { "rounds": rounds } } });
        let round = |bytes: u64| serde_json::json!({ "bytes": bytes, "usec": 5 });
        let three = [9 << 20, 5, 1 << 19].map(round);
        assert_eq!(Rounds::of(&record(three.into())).unwrap(), Rounds { ahead: 2, left: 0.5 });
        assert!(Rounds::of(&record(serde_json::json!([]))).unwrap_err().to_string().contains("rounds"));
    }
}
