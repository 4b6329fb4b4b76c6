//! What updates there were: one JSON line each, appended when an update ends.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Phase, Record, UpdateId};
use crate::unit::UnitName;

/// One finished update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Which update.
    pub id: UpdateId,
    /// How it ended: `done`, `aborted`, `refused`, `failed`.
    pub result: String,
    /// Why, where it is not `done`.
    pub reason: Option<String>,
    /// Kernel release before.
    pub source: String,
    /// Kernel release that it went, or should have gone, to.
    pub target: String,
    /// How each unit ended: `resumed`, `running` or `cold: why`.
    pub units: BTreeMap<UnitName, String>,
    /// When it ended, microseconds since the epoch.
    pub ended: u64,
    /// What took how long.
    pub phases: Vec<Phase>,
}

impl From<&Record> for HistoryLine {
    fn from(r: &Record) -> Self {
        let state = |s: &super::UnitState| match s {
            super::UnitState::Cold { reason } => format!("cold: {reason}"),
            s => s.as_str().to_string(),
        };
        Self {
            id: r.id.clone(),
            result: r.state().as_str().into(),
            reason: r.reason.clone(),
            source: r.source.clone(),
            target: r.target.release.clone(),
            units: r.units.iter().map(|(n, u)| (n.clone(), state(&u.state))).collect(),
            ended: super::now_usec(),
            phases: r.phases.clone(),
        }
    }
}

/// All finished updates, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub Vec<HistoryLine>);

impl History {
    /// Reads the file; an absent file is an empty history. A line that cannot be read (a power cut while it was
    /// written) is left out: history informs, it decides nothing.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }

    /// Appends one line, synced. An id that is already the last line is not written again, so that an update which
    /// was interrupted while ending can end again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(path: &Path, line: &HistoryLine) -> io::Result<()> {
        if Self::load(path)?.0.last().is_some_and(|last| last.id == line.id) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o644).open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }
}
