//! Whose turn it is in the shutdown: services that nothing preserved needs are stopped before the checkpoint, so that
//! preserved ones answer until they are gone; all the rest is stopped behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Record;
use super::undo::{CHECKPOINT_UNIT, ORDER_DIR};
use crate::systemd::Systemd;

/// Kinds of unit that a shutdown stops and that are worth an order.
const KINDS: [&str; 6] = [".service", ".scope", ".socket", ".timer", ".path", ".target"];
/// Kinds of unit that are started again.
const AGAIN: [&str; 7] = [".service", ".socket", ".timer", ".path", ".mount", ".automount", ".swap"];
/// What preserved services need to go on answering, whatever their own units say.
const NEEDED: [&str; 3] = ["basic.target", "dbus.service", "network.target"];

/// A unit that is active.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Active {
    /// What it is ordered after; stopped before those, then (systemd.unit(5)).
    pub after: Vec<String>,
    /// Is it a service with a process of its own, that can be started again?
    pub daemon: bool,
}

/// When the checkpoint has its turn.
#[derive(Debug, Default, PartialEq, Eq)]
struct Order {
    /// Stopped before it.
    ahead: BTreeSet<String>,
    /// Stopped after it.
    behind: BTreeSet<String>,
}

/// Behind the checkpoint is what preserved units, sessions and the network are ordered after; ahead of it every other daemon.
/// What is ordered after one of those (such as multi-user.target) is stopped before them, and so is neither.
fn order(active: &BTreeMap<String, Active>, preserved: &[&str]) -> Order {
    let ours = |name: &str| name.starts_with("kup");
    let session = |name: &str| name.ends_with(".scope") || name.starts_with("user@");
    let needs = |name: &&String| {
        preserved.contains(&name.as_str()) || NEEDED.contains(&name.as_str()) || session(name) || ours(name)
    };
    let needed = reach(active, active.keys().filter(needs));
    let ahead: BTreeSet<String> = active
        .iter()
        .filter(|(name, unit)| unit.daemon && !needed.contains(*name))
        .map(|(name, _)| name.clone())
        .collect();
    let behind = active.keys().filter(|name| reach(active, [*name]).is_disjoint(&ahead)).cloned().collect();
    Order { ahead, behind }
}

/// `from` and everything that they are ordered after, at any distance.
fn reach<'a>(active: &'a BTreeMap<String, Active>, from: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&String> = from.into_iter().collect();
    while let Some(name) = next.pop() {
        if let Some(unit) = active.get(name)
            && found.insert(name.clone())
        {
            next.extend(&unit.after);
        }
    }
    found
}

/// Gives kup-checkpoint.service its place in the shutdown that is to come, and notes what is to be started again should it be
/// called off.
///
/// # Errors
/// What systemd says.
pub fn arrange(systemd: &Systemd, record: &mut Record) -> Result<()> {
    let mut active = BTreeMap::new();
    for name in systemd.active_units()? {
        if KINDS.iter().any(|kind| name.ends_with(kind)) && name != CHECKPOINT_UNIT && name != "init.scope" {
            let unit = Active { after: systemd.after(&name)?, daemon: systemd.is_daemon(&name)? };
            active.insert(name, unit);
        }
    }
    let preserved: Vec<&str> = record.units.keys().map(|name| name.as_str()).collect();
    let Order { ahead, behind } = order(&active, &preserved);
    let lines = |key: &str, units: &BTreeSet<String>| units.iter().map(|u| format!("{key}={u}\n")).collect::<String>();
    fs::create_dir_all(ORDER_DIR)?;
    let text = format!("# Made by kup.\n[Unit]\n{}{}", lines("After", &behind), lines("Before", &ahead));
    fs::write(Path::new(ORDER_DIR).join("50-order.conf"), text)?;
    let targets = active.into_keys().filter(|name| name.ends_with(".target") && !behind.contains(name));
    record.ahead = ahead.iter().cloned().chain(targets).collect();
    systemd.reload()?;
    systemd.start_and_wait(CHECKPOINT_UNIT, Duration::from_secs(30))
}

/// Calls a shutdown off; with the record of an update that needs nothing else, what it has stopped is started again.
pub fn call_off(systemd: &Systemd, record: Option<&Record>) {
    if let Err(e) = systemd.cancel_jobs() {
        tracing::error!("the shutdown cannot be called off: {e:#}");
    }
    if let Some(record) = record {
        start_again(systemd, record);
    }
}

/// Starts again what the shutdown has stopped, in its order and with what it needs. What somebody had stopped before it began
/// stays so.
pub fn start_again(systemd: &Systemd, record: &Record) {
    let targets: Vec<&String> = record.ahead.iter().filter(|name| name.ends_with(".target")).collect();
    let stopped_at = |name: &str| systemd.stopped_at(name).ok().flatten();
    // A shutdown stops targets before the services behind them. What was never active has no time, nor has what systemd has
    // forgotten since: that was active when the update was armed.
    let Some(began) = targets.iter().filter_map(|name| stopped_at(name)).filter(|at| *at > 0).min() else { return };
    let was_active = |name: &str| record.ahead.iter().any(|other| other == name);
    let was_stopped = |name: &str| stopped_at(name).is_some_and(|at| at >= began || (at == 0 && was_active(name)));
    // Not with all that they want, which is more than what was stopped.
    for target in targets.into_iter().filter(|name| was_stopped(name)) {
        complain(target, systemd.start_alone(target));
    }
    let stopped = systemd.stopped_units().unwrap_or_else(|e| {
        tracing::error!("{e:#}");
        Vec::new()
    });
    let stopped: BTreeSet<&String> = stopped.iter().chain(&record.ahead).collect();
    let is_ours = |name: &str| name.starts_with("kup") || record.units.keys().any(|unit| unit.as_str() == name);
    let startable = |name: &str| AGAIN.iter().any(|kind| name.ends_with(kind)) && !is_ours(name);
    for name in stopped.into_iter().filter(|name| startable(name) && was_stopped(name)) {
        if systemd.can_start(name).unwrap_or(false) {
            complain(name, systemd.start(name));
        }
    }
}

fn complain(name: &str, started: Result<()>) {
    if let Err(e) = started {
        tracing::error!("{name} was stopped by the shutdown that is called off, and does not start again: {e:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> BTreeMap<String, Active> {
        let unit = |name: &str, daemon, after: &[&str]| {
            (name.to_owned(), Active { daemon, after: after.iter().map(|a| (*a).to_owned()).collect() })
        };
        BTreeMap::from([
            unit("basic.target", false, &["dbus.socket", "apparmor.service"]),
            unit("dbus.socket", false, &[]),
            unit("dbus.service", true, &["basic.target"]),
            unit("apparmor.service", false, &[]),
            unit("network.target", false, &["networkd.service"]),
            unit("networkd.service", true, &[]),
            unit("logind.service", true, &["basic.target"]),
            unit("session-1.scope", false, &["logind.service"]),
            unit("db.service", true, &["network.target"]),
            unit("redis.service", true, &["network.target", "helper.service"]),
            unit("helper.service", true, &["basic.target"]),
            unit("kupd.service", true, &["dbus.service"]),
            unit("cron.service", true, &["basic.target"]),
            unit("web.service", true, &["db.service"]),
            unit("multi-user.target", false, &["web.service", "redis.service"]),
        ])
    }

    #[test]
    fn daemons_that_nothing_preserved_needs_go_ahead() {
        let order = order(&machine(), &["redis.service"]);
        assert_eq!(order.ahead, ["cron.service", "db.service", "web.service"].map(String::from).into());
        for behind in
            ["redis.service", "helper.service", "dbus.service", "networkd.service", "session-1.scope", "logind.service"]
        {
            assert!(order.behind.contains(behind), "{behind}");
        }
        assert!(
            !order.behind.contains("multi-user.target"),
            "it is stopped before web.service, and so before the checkpoint"
        );
    }

    proptest::proptest! {
        /// However units are ordered, no cycle comes of the checkpoint's place: nothing behind it leads to something ahead.
        #[test]
        fn no_cycle_comes_of_it(edges in proptest::collection::vec((0u8..12, 0u8..12), 0..40), preserved in 0u8..12) {
            let mut active: BTreeMap<String, Active> = BTreeMap::new();
            for n in 0..12u8 {
                let after = edges.iter().filter(|(from, to)| *from == n && to < from).map(|(_, to)| format!("{to}.service"));
                active.insert(format!("{n}.service"), Active { after: after.collect(), daemon: n % 3 != 0 });
            }
            let preserved = format!("{preserved}.service");
            let order = order(&active, &[&preserved]);
            proptest::prop_assert!(order.behind.contains(&preserved));
            for name in &order.behind {
                proptest::prop_assert!(reach(&active, [name]).is_disjoint(&order.ahead));
            }
        }
    }
}
