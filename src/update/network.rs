//! What the network has to be before sockets are restored, and what it is told once their tasks run.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::restore_all::Resumed;
use super::{Record, now_usec};
use crate::net::lock::{self, Connection};
use crate::net::{addresses, images, nudge};
use crate::paths::Paths;

/// What sockets of units that are to be restored need: their own address, and a route to each peer. The rest of a restore
/// does not wait for it.
#[derive(Debug, Default)]
pub struct Network {
    addresses: Vec<IpAddr>,
    connections: Vec<Connection>,
    there: OnceLock<u64>,
}

impl Network {
    /// For the units of `record` that may be resumed.
    pub fn needed(paths: &Paths, record: &Record) -> Self {
        let top = paths.images(record.id.as_str());
        let units =
            record.units.iter().filter(|(_, u)| u.state.may_resume() && !u.namespaces.iter().any(|n| n == "net"));
        let connections = units
            .flat_map(|(name, _)| images::connections(&top.join(name.as_str())).unwrap_or_default())
            .map(|c| Connection { local: c.local, remote: c.remote })
            .collect();
        Self { addresses: record.addresses.clone(), connections, there: OnceLock::new() }
    }

    /// Waits until all of it is there, at most `timeout`, and lets everybody through that waits at [`Network::pass`]. When
    /// that was, in microseconds since the epoch. CRIU says which socket cannot do without what is missing.
    pub fn watch(&self, timeout: Duration) -> u64 {
        let begun = Instant::now();
        match addresses::wait(&self.addresses, timeout) {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => tracing::warn!("these addresses did not come up within {timeout:?}: {missing:?}"),
            Err(e) => tracing::warn!("{e:#}"),
        }
        let missing = addresses::wait_for_routes(&self.connections, timeout.saturating_sub(begun.elapsed()));
        if !missing.is_empty() {
            tracing::warn!("there is no route for these connections: {missing:?}");
        }
        *self.there.get_or_init(now_usec)
    }

    /// Waits for [`Network::watch`].
    pub fn pass(&self) {
        self.there.wait();
    }
}

/// Lets packets through, and asks peers that have backed off to try again now: what counts is what a client sees.
pub fn unlock(paths: &Paths, record: &Record, resumed: &[Resumed]) {
    if let Err(e) = lock::unlock() {
        tracing::error!("{e:#}");
    }
    let top = paths.images(record.id.as_str());
    let mut segments = Vec::new();
    for unit in resumed.iter().map(|r| &r.unit) {
        match images::connections(&top.join(unit.as_str())) {
            Ok(connections) => segments.extend(connections.iter().flat_map(nudge::Outstanding::of)),
            Err(e) => tracing::warn!("{unit}: its peers wait for their own timers: {e}"),
        }
    }
    if let Err(e) = nudge::nudge(&segments, nudge::ROUNDS) {
        tracing::warn!("peers wait for their own timers: {e:#}");
    }
}
