//! What the world sees of an update: the properties of its object.

use std::collections::HashMap;

use zbus::{ObjectPath, OwnedObjectPath, Variant};

use super::PATH;
use crate::paths::Paths;
use crate::request::UpdateRequest;
use crate::update::{Record, State, UnitRecord, UnitState, UpdateId, ram};

/// One update as `org.kup1.Update` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateView {
    /// Which update.
    pub id: UpdateId,
    /// Where it stands.
    pub state: State,
    /// Why it was refused, aborted or failed; empty otherwise.
    pub reason: String,
    /// Kernel release that it leaves.
    pub source: String,
    /// Kernel release that it goes to; empty while that is not known.
    pub target: String,
    /// The administrator keeps the switch for themselves.
    pub stage_only: bool,
    /// Name, state, detail (why it is cold) of each unit.
    pub units: Vec<(String, String, String)>,
    /// Name, begin, end (0 while it is under way), both in microseconds since the epoch.
    pub phases: Vec<(String, u64, u64)>,
    /// Units that run with files that were replaced on disk, and these files.
    pub outdated: Vec<(String, Vec<String>)>,
    /// Bytes of memory that the machine does not have back until its next boot.
    pub kept_back: u64,
}

impl UpdateView {
    /// The update of `record`, as it is seen in this boot.
    pub fn of(paths: &Paths, record: &Record) -> Self {
        Self { kept_back: ram::kept_back(paths, record), ..Self::from(record) }
    }

    /// An update whose worker was asked to start and has not written its record yet.
    pub fn requested(request: &UpdateRequest, running: &str) -> Self {
        Self {
            id: request.id.clone(),
            state: State::Checking,
            reason: String::new(),
            source: running.into(),
            target: request.target.clone().unwrap_or_default(),
            stage_only: request.stage_only,
            units: Vec::new(),
            phases: Vec::new(),
            outdated: Vec::new(),
            kept_back: 0,
        }
    }

    /// The same update after its worker failed before it wrote a record.
    pub fn failed(mut self, reason: String) -> Self {
        self.state = State::Failed;
        self.reason = reason;
        self
    }

    /// Its object.
    pub fn path(&self) -> OwnedObjectPath {
        path_of(&self.id)
    }

    /// Whether nothing moves until the administrator does something.
    pub fn rests(&self) -> bool {
        self.state.is_final() || (self.state == State::Armed && self.stage_only)
    }

    /// The properties that are not as in `before`, with their values.
    pub fn changes(&self, before: &Self) -> HashMap<&'static str, Variant<'static>> {
        let mut changed = HashMap::new();
        let mut differs = |name, differs: bool, value: Variant<'static>| {
            if differs {
                changed.insert(name, value);
            }
        };
        differs("State", self.state != before.state, self.state.as_str().into());
        differs("Reason", self.reason != before.reason, self.reason.clone().into());
        differs("Source", self.source != before.source, self.source.clone().into());
        differs("Target", self.target != before.target, self.target.clone().into());
        differs("StageOnly", self.stage_only != before.stage_only, self.stage_only.into());
        differs("Units", self.units != before.units, self.units.clone().into());
        differs("Phases", self.phases != before.phases, self.phases.clone().into());
        differs("KeptBack", self.kept_back != before.kept_back, self.kept_back.into());
        differs("Outdated", self.outdated != before.outdated, self.outdated.clone().into());
        changed
    }
}

impl From<&Record> for UpdateView {
    fn from(r: &Record) -> Self {
        let detail = |u: &UnitRecord| match &u.state {
            UnitState::Cold { reason } => reason.clone(),
            _ => String::new(),
        };
        let outdated = r.units.iter().filter(|(_, u)| !u.outdated.is_empty());
        Self {
            id: r.id.clone(),
            state: r.state(),
            reason: r.reason.clone().unwrap_or_default(),
            source: r.source.clone(),
            target: r.target.release.clone(),
            stage_only: r.stage_only,
            units: r.units.iter().map(|(n, u)| (n.to_string(), u.state.as_str().to_string(), detail(u))).collect(),
            phases: r.phases.iter().map(|p| (p.name.clone(), p.start, p.end)).collect(),
            outdated: outdated.map(|(n, u)| (n.to_string(), u.outdated.clone())).collect(),
            kept_back: 0,
        }
    }
}

/// The path of an update's object. An id is hexadecimal, hence always a valid path element.
fn path_of(id: &UpdateId) -> OwnedObjectPath {
    ObjectPath::try_from(format!("{PATH}/update/{id}")).map(Into::into).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::TargetKernel;

    fn record() -> Record {
        let target = TargetKernel { release: "6.12.2".into(), image: "/boot/vmlinuz-6.12.2".into(), initrd: None };
        Record::new("5a".parse().unwrap(), "6.12.1".into(), "b".into(), target)
    }

    #[test]
    fn only_what_changed_is_announced() {
        let mut r = record();
        let before = UpdateView::from(&r);
        assert_eq!(before.path().as_str(), "/org/kup1/update/5a");
        assert!(before.changes(&before).is_empty());
        r.reason = Some("no".into());
        r.begin("check");
        let mut names: Vec<_> = UpdateView::from(&r).changes(&before).into_keys().collect();
        names.sort();
        assert_eq!(names, ["Phases", "Reason"]);
        let kept = UpdateView { kept_back: 2 << 20, ..before.clone() };
        assert_eq!(kept.changes(&before).into_keys().collect::<Vec<_>>(), ["KeptBack"]);
    }

    #[test]
    fn a_staged_update_rests() {
        let mut view = UpdateView::from(&record());
        assert!(!view.rests());
        view.state = State::Armed;
        assert!(!view.rests(), "the worker is about to switch");
        view.stage_only = true;
        assert!(view.rests());
        assert!(view.failed("x".into()).rests());
    }
}
