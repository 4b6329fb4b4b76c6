//! What it costs that a service writes while its memory is copied: never more than not to copy in advance at all.

use anyhow::Result;

use super::by_hand::ByHand;
use super::by_kup;
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

fn run(ctx: &mut Ctx) -> Result<()> {
    by_kup::memcached_alone(ctx)?;
    // A plain dump takes everything, whatever was written.
    let mut memcached = ByHand::start(ctx, KEYS)?;
    let plain = memcached.dump(ctx)?;
    memcached.end(ctx)?;
    let mut table = Table::new(&[("checkpoint", "s"), ("against plain CRIU", "%")]);
    table.row("plain CRIU", &[Some(plain), None]);
    for share in SHARES {
        let took = by_kup::update(ctx, KEYS, share)?;
        table.row(&format!("kup, {share} % written"), &[Some(took.checkpoint), Some(change(took.checkpoint, plain))]);
    }
    table.note("256 MiB of values; that share of them is written again and again while kup copies them");
    ctx.table(&table);
    Ok(())
}
