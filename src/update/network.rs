//! What the network has to be before sockets are restored, and what it is told once their tasks run.

use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::restore_all::Resumed;
use super::{Record, now_usec};
use crate::net::lock::{self, Connection, LockSpec};
use crate::net::{addresses, images, nudge};
use crate::paths::Paths;
use crate::sys::trust;
use crate::unit::UnitName;

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
        let images = paths.images(record.id.as_str());
        let connections = units(record).flat_map(|unit| connections(&images.join(unit.as_str()))).collect();
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

/// What CRIU's images say that has to be locked, for a boot that cannot know what was. Rather too much than too little, as a
/// peer that hears RST is lost and one that hears nothing tries again: every port that has a connection, as a whole. Of a
/// port without one nothing can be lost: whoever wants to connect is refused, and may come again. An image that others can
/// change is not restored, so that its peers have nothing to wait for.
pub fn to_lock(paths: &Paths, record: &Record) -> LockSpec {
    let (images, top) = (paths.images(record.id.as_str()), paths.state_dir());
    let trusted =
        units(record).map(|unit| images.join(unit.as_str())).filter(|dir| trust::only_ours(dir, &top).is_ok());
    LockSpec::new(trusted.flat_map(|dir| connections(&dir)).map(|c| c.local), [])
}

/// The units that may be resumed and have no network of their own.
fn units(record: &Record) -> impl Iterator<Item = &UnitName> {
    let in_the_hosts = record.units.iter().filter(|(_, u)| !u.namespaces.iter().any(|n| n == "net"));
    in_the_hosts.filter(|(_, u)| u.state.may_resume()).map(|(name, _)| name)
}

/// The connections in a unit's images. One whose images cannot be read starts cold.
fn connections(images: &Path) -> Vec<Connection> {
    let dumped = images::connections(images).unwrap_or_default();
    dumped.iter().map(|c| Connection { local: c.local, remote: c.remote }).collect()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::update::{TargetKernel, UnitRecord, UnitState};

    #[test]
    fn what_images_say_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "source".into(), target);
        let unit = |state, namespaces| UnitRecord { state, namespaces, ..UnitRecord::default() };
        for (name, unit) in [
            ("a.service", unit(UnitState::Imaged, vec![])),
            ("cold.service", unit(UnitState::Void, vec![])),
            ("own.service", unit(UnitState::Imaged, vec!["net".into()])),
            ("rotten.service", unit(UnitState::Imaged, vec![])),
        ] {
            fs::create_dir_all(paths.images("5a").join(name)).unwrap();
            record.units.insert(name.parse().unwrap(), unit);
        }
        let copy = |name: &str| {
            for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/net/testdata")).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), paths.images("5a").join(name).join(file.file_name())).unwrap();
            }
        };
        ["cold.service", "own.service"].into_iter().for_each(copy);
        assert!(to_lock(&paths, &record).is_empty());
        copy("a.service");
        let found = to_lock(&paths, &record);
        let dumped = images::connections(&paths.images("5a").join("a.service")).unwrap();
        assert!(!dumped.is_empty() && found.connections.is_empty());
        assert!(dumped.iter().all(|c| found.ports.contains(&c.local.port())));
        fs::set_permissions(paths.images("5a"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(to_lock(&paths, &record).is_empty(), "it starts cold");
    }
}
