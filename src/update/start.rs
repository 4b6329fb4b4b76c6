//! Having systemd build the sandboxes of units that are to be restored, as early as they can be built.

use std::time::{Duration, Instant};

use crate::systemd::{Start, Systemd};
use crate::unit::UnitName;

const POLL: Duration = Duration::from_millis(50);
/// A unit that has waited so long has its turn soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts `units`. A unit need not be enabled: what ran before the switch runs after it. Those whose sandbox needs little
/// of the boot do not wait for their turn in it; where that comes to nothing they have it still. Returns when there is
/// nothing more to hasten.
pub fn start_all(systemd: &Systemd, units: &[UnitName]) {
    let deadline = Instant::now() + PATIENCE;
    // Mostly the boot starts it by itself; to ask for it once more would have systemd go through all that it needs again.
    let queued = systemd.queued().unwrap_or_default();
    for unit in units.iter().filter(|u| !queued.contains(u.as_str())) {
        // In its turn, with all that it asks for: also what a unit that starts ahead does not wait for.
        if let Err(e) = systemd.start(unit.as_str()) {
            tracing::error!("{unit}: {e:#}");
        }
    }
    let mut waiting = Vec::new();
    for unit in units {
        waiting.extend(waits_for(systemd, units, unit).map(|waits_for| (unit, waits_for)));
        // Those before it may be ready meanwhile.
        hasten(systemd, &mut waiting);
    }
    while !waiting.is_empty() && Instant::now() < deadline {
        std::thread::sleep(POLL);
        hasten(systemd, &mut waiting);
    }
}

/// What has to be there before `unit` can start ahead of its turn.
fn waits_for(systemd: &Systemd, units: &[UnitName], unit: &UnitName) -> Option<Vec<String>> {
    let peers = |name: &str| units.iter().any(|u| u.as_str() == name);
    match systemd.earliest(unit.as_str(), peers) {
        Ok(Start::Ahead(waits_for)) => Some(waits_for),
        Ok(Start::InItsTurn(why)) => {
            tracing::info!("{unit} starts in its turn: {why}");
            None
        }
        Err(e) => {
            tracing::warn!("{unit} starts in its turn: {e:#}");
            None
        }
    }
}

/// Starts what has nothing to wait for any more, and keeps the rest.
fn hasten(systemd: &Systemd, waiting: &mut Vec<(&UnitName, Vec<String>)>) {
    let queued = match systemd.queued() {
        Ok(queued) => queued,
        Err(e) => {
            tracing::warn!("units start in their turn: {e:#}");
            return waiting.clear();
        }
    };
    waiting.retain_mut(|(unit, waits_for)| {
        waits_for.retain(|other| queued.contains(other));
        if !waits_for.is_empty() {
            // Without a job of its own it has had its turn.
            return queued.contains(unit.as_str());
        }
        if let Err(e) = systemd.start_alone(unit.as_str()) {
            tracing::warn!("{unit} starts in its turn: {e:#}");
        }
        false
    });
}
