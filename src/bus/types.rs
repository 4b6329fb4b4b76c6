//! What goes over the bus.

use serde::{Deserialize, Serialize};
use zbus::Type;

use crate::preflight::{Finding, Report, Severity};

/// A unit that is marked for preservation. `(ssass)`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct UnitEntry {
    /// Its name.
    pub unit: String,
    /// The file that marks it.
    pub marked_by: String,
    /// What kup sets for it, as `Directive=value`, so that it can be preserved.
    pub adjustments: Vec<String>,
    /// As systemd says it: `active`, `inactive`, `failed`, …; `unknown` when systemd does not answer.
    pub active_state: String,
}

/// One finding of a check. `(sssss)`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Type)]
pub struct FindingEntry {
    /// The unit that it concerns; empty for the machine.
    pub unit: String,
    /// Stable id, `room.thing`.
    pub id: String,
    /// `note`, `warning` or `blocker`.
    pub severity: String,
    /// One sentence.
    pub message: String,
    /// What to do about it; empty where nothing can be done.
    pub fix: String,
}

/// The answer to `Check`: target release (empty when there is none), the units that were looked at, the findings.
pub type CheckAnswer = (String, Vec<String>, Vec<FindingEntry>);

/// The word for a severity, the same on the bus and in JSON.
pub fn severity(s: Severity) -> &'static str {
    match s {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Blocker => "blocker",
    }
}

/// A report as the bus carries it: the machine's findings first, then each unit's, in the report's order.
pub fn check_answer(report: &Report) -> CheckAnswer {
    let entry = |unit: &str, f: &Finding| FindingEntry {
        unit: unit.into(),
        id: f.id.clone(),
        severity: severity(f.severity).into(),
        message: f.message.clone(),
        fix: f.fix.clone(),
    };
    let machine = report.machine.iter().map(|f| entry("", f));
    let units = report.units.iter().flat_map(|(u, fs)| fs.iter().map(move |f| entry(u.as_str(), f)));
    let findings = machine.chain(units).collect();
    (report.target.clone().unwrap_or_default(), report.units.keys().map(|u| u.to_string()).collect(), findings)
}
