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
    /// How it ended: `done`, `aborted`, `refused`, `fell-back`, `failed`.
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
    /// Reads the file; an absent file is an empty history.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&read(path)?))
    }

    /// Reads the text of a history. A line that cannot be read (a power cut while it was written) is left out, whatever
    /// bytes it holds: history informs, it decides nothing.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect())
    }

    /// Appends one line, synced. An id that is already the last line is not written again, so that an update which
    /// was interrupted while ending can end again.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(path: &Path, line: &HistoryLine) -> io::Result<()> {
        let Some(text) = addition(&read(path)?, line)? else { return Ok(()) };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o644).open(path)?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

/// What has to be written behind the history `before` so that `line` is its last one; `None` where it is.
///
/// # Errors
/// None of this version's lines has any.
pub fn addition(before: &[u8], line: &HistoryLine) -> serde_json::Result<Option<Vec<u8>>> {
    if History::parse(before).0.last().is_some_and(|last| last.id == line.id) {
        return Ok(None);
    }
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    // Behind a line that was cut off this one would be lost as well.
    if before.last().is_some_and(|b| *b != b'\n') {
        text.insert(0, b'\n');
    }
    Ok(Some(text))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> HistoryLine {
        HistoryLine {
            id: id.parse().unwrap(),
            result: "done".into(),
            reason: None,
            source: "1".into(),
            target: "2".into(),
            units: BTreeMap::new(),
            ended: 3,
            phases: Vec::new(),
        }
    }

    #[test]
    fn a_line_that_was_cut_off_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kup/history");
        History::append(&path, &line("a")).unwrap();
        History::append(&path, &line("a")).unwrap();
        let mut text = fs::read(&path).unwrap();
        assert_eq!(History::load(&path).unwrap().0, [line("a")]);
        // Cut within a character, which leaves a file that is no text.
        text.extend(b"{\"id\":\"b\",\"reason\":\"\xc3");
        fs::write(&path, text).unwrap();
        assert_eq!(History::load(&path).unwrap().0, [line("a")]);
        History::append(&path, &line("c")).unwrap();
        assert_eq!(History::load(&path).unwrap().0, [line("a"), line("c")]);
    }
}
