//! What it costs that a service writes while its memory is copied: never more than not to copy in advance at all.

use anyhow::Result;

use super::by_hand::ByHand;
use super::by_kup::{self, Store, Took};
use crate::client::memcached::Keys;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::runner::table::{Table, change};
use crate::scenario::Scenario;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "writes",
    about: "downtime of the checkpoint over the share of memory that is written meanwhile, 0 to 100 %, against plain CRIU",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys::mib(256);
/// Percent.
const SHARES: [u64; 6] = [0, 10, 25, 50, 75, 100];

/// Percent by which the checkpoint may be longer than plain CRIU's.
const AIM: f64 = 5.0;

fn run(ctx: &mut Ctx) -> Result<()> {
    by_kup::memcached_alone(ctx)?;
    Store::Disk.choose(ctx)?;
    // One sample would be within the noise: one before kup's and one after them, on a machine that may have become slower.
    let before = plain(ctx)?;
    let mut updates = Vec::new();
    for share in SHARES {
        updates.push((share, by_kup::update(ctx, KEYS, share)?));
    }
    let after = plain(ctx)?;
    ctx.table(&table([before, after], &updates));
    Ok(())
}

/// A plain dump takes everything, whatever was written.
fn plain(ctx: &mut Ctx) -> Result<f64> {
    let mut memcached = ByHand::start(ctx, KEYS)?;
    let took = memcached.dump(ctx)?;
    memcached.end(ctx)?;
    Ok(took)
}

fn table([before, after]: [f64; 2], updates: &[(u64, Took)]) -> Table {
    let plain = f64::midpoint(before, after);
    let mut table = Table::new(&[
        ("checkpoint", "s"),
        ("against plain CRIU", "%"),
        ("rounds before it", "count"),
        ("left for the end", "MiB"),
    ]);
    table.row("plain CRIU, before", &[Some(before), None, None, None]);
    table.row("plain CRIU, after", &[Some(after), None, None, None]);
    let against = |took: &Took| change(took.checkpoint, plain);
    for (share, took) in updates {
        let rounds = [Some(took.rounds.ahead as f64), Some(took.rounds.left)];
        table.row(
            &format!("kup, {share} % written"),
            &[&[Some(took.checkpoint), Some(against(took))][..], &rounds].concat(),
        );
    }
    let worst = updates.iter().map(|(_, took)| against(took)).fold(f64::NEG_INFINITY, f64::max);
    table.aim("the worst of kup's, against plain CRIU, %", worst, AIM);
    table.note(
        "256 MiB of values; that share of them is written again and again, without a pause, while kup copies them",
    );
    table.note(
        "to the disk. What it is compared with is the mean of both samples of plain CRIU, whose memcached nobody asks.",
    );
    table
}
