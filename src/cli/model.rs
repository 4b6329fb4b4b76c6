//! What the verbs show, as they show it: the types behind `--json`, which are also what the tables are made of.

use serde::Serialize;

use crate::bus::{FindingEntry, UnitEntry};
use crate::update::HistoryLine;

/// Answer of `kup list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    /// The marked units.
    pub units: Vec<UnitEntry>,
    /// Marks that cannot be used, and why.
    pub problems: Vec<String>,
}

/// Answer of `kup check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Kernel release to switch to.
    pub target: Option<String>,
    /// The units that were looked at.
    pub units: Vec<String>,
    /// What was found; `unit` is empty where it concerns the machine.
    pub findings: Vec<FindingEntry>,
}

impl Check {
    /// Whether something rules the update out.
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|f| f.severity == "blocker")
    }
}

/// Answer of `kup status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Version of kupd.
    pub version: String,
    /// `manual` or `automatic`.
    pub mode: String,
    /// Release of the running kernel.
    pub running_kernel: String,
    /// Release of the staged kernel.
    pub staged_kernel: Option<String>,
    /// The update that is under way, or the last one.
    pub update: Option<Update>,
}

/// One update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Which update.
    pub id: String,
    /// Where it stands, or how it ended.
    pub state: String,
    /// Why it was refused, aborted or failed.
    pub reason: Option<String>,
    /// Kernel release that it leaves.
    pub source: String,
    /// Kernel release that it goes to.
    pub target: String,
    /// The administrator keeps the switch for themselves.
    pub stage_only: bool,
    /// Its units.
    pub units: Vec<UpdateUnit>,
    /// What took how long.
    pub phases: Vec<Phase>,
    /// Microseconds from the first freeze to the last resume; `None` while that is not known.
    pub blackout_usec: Option<u64>,
    /// Bytes of memory that the machine does not have back until its next boot.
    pub kept_back_bytes: u64,
}

/// One unit of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UpdateUnit {
    /// Its name.
    pub unit: String,
    /// `running`, `imaged`, `void`, `resumed`, `cold`.
    pub state: String,
    /// Why it is cold.
    pub reason: Option<String>,
    /// Files that it runs with and that were replaced on disk.
    pub outdated: Vec<String>,
}

/// One phase of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Microseconds since the epoch.
    pub start_usec: u64,
    /// Microseconds since the epoch; `None` while it is under way.
    pub end_usec: Option<u64>,
}

impl Phase {
    /// How long it took, in microseconds.
    pub fn took(&self) -> Option<u64> {
        Some(self.end_usec?.saturating_sub(self.start_usec))
    }

    /// From the record's form, where an end of 0 is none.
    pub fn new(name: String, start_usec: u64, end: u64) -> Self {
        Self { name, start_usec, end_usec: (end > 0).then_some(end) }
    }

    /// The word that it begins with; the unit that it concerns may follow.
    pub fn kind(&self) -> &str {
        self.name.split(' ').next().unwrap_or_default()
    }
}

impl Update {
    /// Whether nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "refused" | "done" | "aborted" | "fell-back" | "failed")
    }

    /// Whether a unit of it started cold.
    pub fn has_cold_units(&self) -> bool {
        self.units.iter().any(|u| u.state == "cold")
    }
}

impl From<HistoryLine> for Update {
    fn from(line: HistoryLine) -> Self {
        let phases: Vec<_> = line.phases.into_iter().map(|p| Phase::new(p.name, p.start, p.end)).collect();
        let units = line.units.into_iter().map(|(unit, end)| {
            let (state, reason) = match end.split_once(": ") {
                Some((state, reason)) => (state.to_string(), Some(reason.to_string())),
                None => (end, None),
            };
            UpdateUnit { unit: unit.to_string(), state, reason, outdated: Vec::new() }
        });
        Self {
            id: line.id.to_string(),
            state: line.result,
            reason: line.reason,
            source: line.source,
            target: line.target,
            stage_only: false,
            units: units.collect(),
            blackout_usec: blackout(&phases).map(|(start, end)| end - start),
            kept_back_bytes: 0,
            phases,
        }
    }
}

/// When clients got no answer: from where the first unit was frozen (or, where that is not told apart, dumped) to where the
/// last one was unlocked (or restored).
pub fn blackout(phases: &[Phase]) -> Option<(u64, u64)> {
    let starts = |kind| phases.iter().filter(move |p| p.kind() == kind).map(|p| p.start_usec).min();
    let ends = |kind| phases.iter().filter(move |p| p.kind() == kind).map(|p| p.end_usec);
    let last = |kind| ends(kind).collect::<Option<Vec<_>>>()?.into_iter().max();
    let (start, end) = (starts("freeze").or_else(|| starts("dump"))?, last("unlock").or_else(|| last("restore"))?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, start_usec: u64, end_usec: u64) -> Phase {
        Phase::new(name.into(), start_usec, end_usec)
    }

    #[test]
    fn an_update_of_the_history_is_one_as_well() {
        let line = r#"{"id":"64a","result":"failed","reason":"no","source":"1","target":"2","ended":9,
            "units":{"a.service":"resumed","b.service":"cold: its image is damaged: gone"},
            "phases":[{"name":"freeze and dump","start":3,"end":4},{"name":"unlock","start":7,"end":8}]}"#;
        let update = Update::from(serde_json::from_str::<HistoryLine>(line).unwrap());
        assert_eq!((update.id.as_str(), update.state.as_str(), update.blackout_usec), ("64a", "failed", Some(5)));
        let units: Vec<_> = update.units.iter().map(|u| (u.state.as_str(), u.reason.as_deref())).collect();
        assert_eq!(units, [("resumed", None), ("cold", Some("its image is damaged: gone"))]);
    }

    #[test]
    fn blackout_is_from_freeze_to_unlock() {
        let mut phases = vec![
            phase("check", 1, 2),
            phase("dump a.service", 20, 30),
            phase("dump b.service", 15, 25),
            phase("switch", 30, 0),
            phase("restore a.service", 100, 130),
            phase("restore b.service", 100, 120),
        ];
        assert_eq!(blackout(&phases), Some((15, 130)));
        phases.push(phase("freeze", 10, 12));
        phases.push(phase("unlock", 131, 133));
        assert_eq!(blackout(&phases), Some((10, 133)));
        assert_eq!(blackout(&phases[..4]), None, "the switch is not over");
        phases.truncate(5);
        phases.push(phase("restore b.service", 100, 0));
        assert_eq!(blackout(&phases), None, "one unit is not back");
    }
}
