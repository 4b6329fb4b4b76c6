//! Does the blackout grow with the memory?

use std::time::Duration;

use anyhow::{Result, bail};

use super::by_kup::{self, Store};
use crate::client::memcached::Keys;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::runner::table::Table;
use crate::scenario::Scenario;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "working-set",
    about: "kup's blackout for memcached with 256 MiB to 3 GiB, as far as memory (--memory) and disk allow",
    from: STAGED,
    all_only: false,
    run,
};

/// MiB of values.
const SIZES: [u64; 5] = [256, 512, 1024, 2048, 3072];
/// Percent of the memory that are written while it is copied.
const WRITTEN: u64 = 10;
/// By how much the blackout may grow with the memory, where that stays in RAM.
const AIM: f64 = 1.15;

fn run(ctx: &mut Ctx) -> Result<()> {
    by_kup::memcached_alone(ctx)?;
    let mut table = Table::new(&[("blackout", "s"), ("checkpoint", "s"), ("restore", "s")]);
    for (name, store) in [("RAM", Store::Ram), ("disk", Store::Disk)] {
        store.choose(ctx)?;
        let growth = on(ctx, name, &mut table)?;
        let what = format!("{name}: the largest's blackout against the smallest's, times");
        // What comes from a disk takes as long as the disk takes.
        match store {
            Store::Ram => table.aim(&what, growth, AIM),
            _ => table.note(format!("{what}: {growth:.3}")),
        }
        ctx.figure(&format!("largest against smallest, {name}"), growth, "times");
    }
    ctx.table(&table);
    Ok(())
}

/// All sizes on one store; gives the largest one's blackout over the smallest one's.
fn on(ctx: &mut Ctx, name: &str, table: &mut Table) -> Result<f64> {
    let mut blackouts = Vec::new();
    for mib in SIZES {
        let keys = Keys::mib(mib);
        if let Some(why) = too_large(ctx, keys)? {
            table.note(format!("{name}: {mib} MiB left out: {why}"));
            continue;
        }
        let took = by_kup::update(ctx, keys, WRITTEN)?;
        table.row(&format!("{name}, {mib} MiB"), &[Some(took.blackout), Some(took.checkpoint), Some(took.restore)]);
        blackouts.push(took.blackout);
    }
    let (Some(smallest), Some(largest)) = (blackouts.first(), blackouts.last()) else {
        bail!("not even {} MiB fit into this machine: more --memory", SIZES[0]);
    };
    Ok(largest / smallest)
}

/// Why so much cannot be kept in this machine. Half of the memory stays free for what else there is.
fn too_large(ctx: &Ctx, keys: Keys) -> Result<Option<String>> {
    let need = keys.allowance();
    let memory = u64::from(ctx.vm.spec().memory);
    if need > memory / 2 {
        return Ok(Some(format!("it needs {need} MiB, half of the machine's {memory} MiB at most")));
    }
    let free = ctx.vm.try_ssh("df --output=avail -m /var/lib/kup | tail -n 1", Duration::from_secs(60))?;
    let free: u64 = free.text().trim().parse()?;
    Ok((need > free).then(|| format!("it needs {need} MiB on the disk, where {free} MiB are free")))
}
