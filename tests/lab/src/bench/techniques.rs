//! The document's table: what each technique makes of the two downtimes, against a plain checkpoint and restore.

use anyhow::Result;

use super::by_hand::{ByHand, Restore};
use super::by_kup::{self, Store};
use crate::client::memcached::Keys;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::runner::table::{Table, change};
use crate::scenario::Scenario;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "techniques",
    about: "checkpoint and restore of memcached: plain CRIU, its own pre-dumps and lazy pages, kup; 1 GiB with --memory 8192",
    from: STAGED,
    all_only: false,
    run,
};

/// Percent of the memory that are written after each round.
const WRITTEN: u64 = 10;
/// Percent by which kup's checkpoint is to be shorter than plain CRIU's.
const CHECKPOINT_AIM: f64 = -94.0;
/// The same for its restore.
const RESTORE_AIM: f64 = -99.6;

fn run(ctx: &mut Ctx) -> Result<()> {
    // The store in RAM needs as much again, in few pieces.
    let mib = u64::from(ctx.vm.spec().memory / 8).min(1024);
    let keys = Keys::mib(mib);
    by_kup::memcached_alone(ctx)?;
    let mut results = Results::default();
    crius_own(ctx, keys, &mut results)?;
    // One line for each store, each an update to the machine's other kernel.
    let stores = [
        ("kup: FOAM on disk", Store::Disk),
        ("kup: FOAM in RAM", Store::Ram),
        ("kup: FOAM in RAM, and on disk for the way back", Store::RamAndDisk),
    ];
    for (name, store) in stores {
        store.choose(ctx)?;
        let foam = by_kup::update(ctx, keys, WRITTEN)?;
        results.add(name, foam.checkpoint, foam.restore);
    }
    let mut table = results.table();
    table.note(format!(
        "memcached with {mib} MiB of values. CRIU, incremental: {WRITTEN} % of them were written once after"
    ));
    table.note("each of two pre-dumps; in all of CRIU's rows nobody asked for anything during checkpoint and restore.");
    table.note(format!(
        "kup: a client wrote the same {WRITTEN} % again and again, without a pause, from before the checkpoint"
    ));
    table.note("until after the restore. CRIU's images end on the disk, and are read from there.");
    ctx.table(&table);
    Ok(())
}

/// What CRIU can do by itself. Images are used more than once: for one way of restoring after the other.
fn crius_own(ctx: &mut Ctx, keys: Keys, results: &mut Results) -> Result<()> {
    let mut memcached = ByHand::start(ctx, keys)?;
    let dump = memcached.dump(ctx)?;
    let eager = memcached.restore(ctx, Restore::Eager)?;
    results.add("plain CRIU", dump, eager);
    let lazy = memcached.restore(ctx, Restore::OnDemand)?;
    memcached.forget(ctx)?;
    for _ in 0..2 {
        memcached.pre_dump(ctx)?;
        memcached.write(ctx, WRITTEN)?;
    }
    let chain = memcached.dump(ctx)?;
    results.add("CRIU, incremental", chain, memcached.restore(ctx, Restore::Eager)?);
    results.add("CRIU, on demand", dump, lazy);
    results.add("CRIU, incremental and on demand", chain, memcached.restore(ctx, Restore::OnDemand)?);
    memcached.end(ctx)
}

/// Downtimes of checkpoint and restore, the first those of plain CRIU.
#[derive(Default)]
struct Results(Vec<(&'static str, f64, f64)>);

impl Results {
    fn add(&mut self, name: &'static str, checkpoint: f64, restore: f64) {
        self.0.push((name, checkpoint, restore));
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("checkpoint", "s"),
            ("against plain CRIU", "%"),
            ("restore", "s"),
            ("restore against plain CRIU", "%"),
        ]);
        let Some((plain, dump, eager)) = self.0.first() else { return table };
        for (name, checkpoint, restore) in &self.0 {
            let against = |value: f64, before: f64| (name != plain).then(|| change(value, before));
            let (one, other) = (against(*checkpoint, *dump), against(*restore, *eager));
            table.row(name, &[Some(*checkpoint), one, Some(*restore), other]);
        }
        for (name, checkpoint, restore) in self.0.iter().filter(|result| result.0.starts_with("kup")) {
            table.aim(&format!("{name}: checkpoint against plain CRIU, %"), change(*checkpoint, *dump), CHECKPOINT_AIM);
            table.aim(&format!("{name}: restore against plain CRIU, %"), change(*restore, *eager), RESTORE_AIM);
        }
        table
    }
}
