//! What a check says: findings with stable ids, gathered in a report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::unit::UnitName;

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// The update can go on; something will be different after it.
    Warning,
    /// The unit (or, for the machine, any unit) cannot be preserved.
    Blocker,
}

/// One sentence about one unit or about the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable and greppable, `room.thing`, such as `files.deleted-mapping`; never reworded once released.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence: what was found, with its name (path, fd, pid).
    pub message: String,
    /// What the administrator can do about it; empty where nothing can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    /// A finding of `severity` without a fix; add one with [`Finding::fix`].
    pub fn new(id: &str, severity: Severity, message: impl Into<String>) -> Self {
        Self { id: id.into(), severity, message: message.into(), fix: String::new() }
    }

    /// A [`Severity::Blocker`].
    pub fn blocker(id: &str, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Blocker, message)
    }

    /// A [`Severity::Warning`].
    pub fn warning(id: &str, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, message)
    }

    /// A [`Severity::Note`].
    pub fn note(id: &str, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, message)
    }

    /// The same finding with a way out.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// The answer to `kup check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Kernel release that the machine would switch to, where one was found.
    pub target: Option<String>,
    /// What concerns every unit.
    pub machine: Vec<Finding>,
    /// What concerns one unit; a unit without findings is there with an empty list.
    pub units: BTreeMap<UnitName, Vec<Finding>>,
}

impl Report {
    /// Whether the machine itself refuses every update.
    pub fn machine_blocked(&self) -> bool {
        self.machine.iter().any(|f| f.severity == Severity::Blocker)
    }

    /// Whether `unit` cannot be preserved for a reason of its own.
    pub fn unit_blocked(&self, unit: &UnitName) -> bool {
        self.units.get(unit).is_some_and(|fs| fs.iter().any(|f| f.severity == Severity::Blocker))
    }

    /// The units that cannot be preserved.
    pub fn blocked_units(&self) -> Vec<&UnitName> {
        self.units.keys().filter(|u| self.unit_blocked(u)).collect()
    }
}
