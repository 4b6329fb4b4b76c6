//! Memory that is stored while the unit runs, in rounds, so that little is left for the moment when it stands still.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Round, undo};
use crate::criu::{Dump, PageServer, plain};
use crate::store::arena::Arena;
use crate::store::ram::Ram;
use crate::store::{Disk, Foam, Medium};

/// What is dumped within the time that CRIU needs for everything else, bytes.
const SMALL: u64 = 4 << 20;
/// A round has to leave less than this share of what the one before it has left.
const SHRINK: f64 = 0.8;
/// How long all rounds may take: whoever waits for the shutdown does not wait for ever.
const WITHIN: Duration = Duration::from_secs(200);
/// However well they go.
const MOST_ROUNDS: usize = 10;
/// Directory of the rounds' own images in those of the unit.
const ROUNDS: &str = "rounds";

/// What is stored of a unit so far.
pub struct Precopied {
    /// Its memory.
    pub foam: Foam,
    /// Where that is, when it is not on the disk alone.
    pub ram: Option<Arc<Ram>>,
    /// The images of the last round, as [`Dump::parent`] takes them.
    pub parent: Option<String>,
    /// The rounds, the first one first.
    pub rounds: Vec<Round>,
}

/// Where a unit's memory is to be stored.
#[derive(Debug, Clone)]
pub struct Where<'a> {
    /// The directory of its images.
    pub images: &'a Path,
    /// What stays in RAM over the switch, for a unit that has part in it.
    pub arena: Option<Arc<Arena>>,
    /// Is it to be on the disk in any case?
    pub copied: bool,
}

/// Stores the memory that `last`, the dump that follows, is about, in as many rounds as pay. Where the kernel or CRIU cannot
/// do it, nothing is stored yet: the last dump takes all at once then.
///
/// # Errors
/// When its images' directory cannot be written to.
pub fn run(last: &Dump, place: &Where) -> Result<Precopied> {
    let images = place.images;
    let (medium, ram) = slots(place)?;
    let mut stored = Precopied { foam: Foam::new(medium.clone()), ram: ram.clone(), parent: None, rounds: Vec::new() };
    let first = Instant::now();
    let fits = |rounds: &[Round]| {
        let next = rounds.last().map_or(Duration::ZERO, |last| Duration::from_micros(last.usec));
        first.elapsed() + next < WITHIN
    };
    while stored.rounds.len() < MOST_ROUNDS && fits(&stored.rounds) && pays(&stored.rounds) {
        let begun = Instant::now();
        let n = stored.rounds.len();
        let dir = images.join(ROUNDS).join(n.to_string());
        DirBuilder::new().mode(0o700).recursive(true).create(&dir).context("memory cannot be stored")?;
        stored = match round(last, &dir, stored, n) {
            Ok(next) => next,
            Err(e) => {
                tracing::info!("memory is not copied in advance: {e:#}");
                // What an unfinished round has overwritten is spoilt.
                if let Some(ram) = ram {
                    ram.forget();
                }
                return none(place);
            }
        };
        // What is on disk by then does not have to be written while the unit stands still.
        medium.sync().context("memory cannot be stored")?;
        stored.rounds.push(Round::since(begun, stored.foam.written()));
    }
    Ok(stored)
}

/// Nothing: the dump takes all at once.
///
/// # Errors
/// When the images' directory cannot be written to.
pub fn none(place: &Where) -> Result<Precopied> {
    let (medium, ram) = slots(place)?;
    Ok(Precopied { foam: Foam::new(medium), ram, parent: None, rounds: Vec::new() })
}

/// What pages are written to, and what of that is in RAM.
type Slots = (Arc<dyn Medium>, Option<Arc<Ram>>);

fn slots(place: &Where) -> Result<Slots> {
    let path = place.images.join(plain::SLOTS);
    let _ = fs::remove_file(&path);
    let disk = Disk::create(&path).context("memory cannot be stored")?;
    Ok(match place.arena.clone() {
        Some(arena) => {
            let ram = Arc::new(Ram::new(arena, disk, place.copied));
            (ram.clone(), Some(ram))
        }
        None => (Arc::new(disk), None),
    })
}

/// The rounds' images are of no use once the dump is there, and no part of it.
///
/// # Errors
/// When they stay.
pub fn forget(images: &Path) -> Result<()> {
    undo::wipe(&images.join(ROUNDS))
}

fn round(last: &Dump, images: &Path, stored: Precopied, n: usize) -> Result<Precopied> {
    let (server, socket) = PageServer::start(stored.foam)?;
    let before = n.checked_sub(1).map(|before| format!("../{before}"));
    let &Dump { criu, main_pid, namespaces, ghost_limit, .. } = last;
    let (pages, parent) = (Some(socket), before.as_deref());
    let dumped = Dump { criu, images, main_pid, namespaces, ghost_limit, pages, parent }.pre_dump();
    if let Err(e) = dumped {
        server.give_up();
        return Err(e.into());
    }
    Ok(Precopied { foam: server.finish()?, parent: Some(format!("{ROUNDS}/{n}")), ..stored })
}

/// Does another round leave much less for the end? What a round writes was changed while the one before it went on, so that
/// the next one will leave `changes per second * its own time`.
fn pays(rounds: &[Round]) -> bool {
    match rounds {
        [] => true,
        [first] => first.bytes > SMALL,
        [.., before, last] => {
            let rate = last.bytes as f64 / before.seconds();
            let bandwidth = last.bytes as f64 / last.seconds();
            // Pages that are written again and again count once, however long the round before was: of those no fewer are left.
            let fewer = (last.bytes as f64) < SHRINK * before.bytes as f64;
            last.bytes > SMALL && fewer && rate < SHRINK * bandwidth
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many rounds a unit of `size` bytes gets that changes `rate` bytes a second, at `bandwidth` bytes a second and
    /// with half a second for each round whatever it does; and what is left to do at the end.
    fn simulate(size: f64, rate: f64, bandwidth: f64) -> (usize, f64) {
        let (mut rounds, mut dirty) = (Vec::new(), size);
        while rounds.len() < MOST_ROUNDS && pays(&rounds) {
            let time = 0.5 + dirty / bandwidth;
            rounds.push(Round { bytes: dirty as u64, usec: (time * 1e6) as u64 });
            dirty = (rate * time).min(size);
        }
        (rounds.len(), dirty)
    }

    #[test]
    fn rounds_end_when_they_do_not_pay() {
        const MIB: f64 = (1 << 20) as f64;
        assert_eq!(simulate(MIB, 0.0, 100.0 * MIB).0, 1, "a small unit");
        assert_eq!(simulate(1000.0 * MIB, 0.0, 100.0 * MIB), (2, 0.0), "one that sits still");
        let (rounds, left) = simulate(1000.0 * MIB, 10.0 * MIB, 100.0 * MIB);
        assert!((3..6).contains(&rounds) && left < 20.0 * MIB, "{rounds} rounds leave {left}");
        let (rounds, _) = simulate(1000.0 * MIB, 200.0 * MIB, 100.0 * MIB);
        assert_eq!(rounds, 2, "one that writes faster than anybody copies");
        let round = |seconds: u64| Round { bytes: 256 << 20, usec: seconds * 1_000_000 };
        assert!(!pays(&[round(15), round(10)]), "all of it is written in less time than a round takes");
    }
}
