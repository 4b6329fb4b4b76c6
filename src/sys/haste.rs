//! Letting a control group go before all others for a while (cgroups v2, "cpu.weight").

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::atomic;

/// The most that the kernel takes.
const MOST: u32 = 10000;
/// What groups have where nobody said otherwise.
const ORDINARY: u32 = 100;
/// Those get the most; others keep their ratio to them.
const TIMES: u32 = MOST / ORDINARY;

/// The group at `cgroup`, whose unit began with more, is like any other from here on.
pub fn forgo(cgroup: &Path) {
    // Where nobody has its processors shared by weight it is so already.
    let _ = fs::write(cgroup.join("cpu.weight"), ORDINARY.to_string());
}

/// A control group that goes before others as long as this lives. systemd is not asked to do it: it would keep the weight
/// in a drop-in beyond that. It does not know of this one, and at a reload may set the unit's own.
#[derive(Debug, Serialize, Deserialize)]
pub struct Haste {
    file: PathBuf,
    before: u32,
    /// Where it is written down for another process.
    #[serde(skip)]
    note: Option<PathBuf>,
}

impl Haste {
    /// For the group at `cgroup`; `None` where there is none yet, or nobody has its processors shared by weight.
    pub fn of(cgroup: &Path) -> Option<Self> {
        Self::read(cgroup)?.begin()
    }

    /// The same; where this process does not end it, another can by what is written at `note`.
    pub fn with_note(cgroup: &Path, note: &Path) -> Option<Self> {
        let mut haste = Self::read(cgroup)?;
        haste.note = Some(note.into());
        // A weight that was raised already is not the one to go back to.
        if let Some(earlier) = Self::noted(note) {
            haste.before = earlier.before;
            earlier.leave();
        }
        atomic::write(note, &serde_json::to_vec(&haste).ok()?, 0o600).ok()?;
        haste.begin()
    }

    /// Ends what another process has left, if there is anything noted at `note`.
    pub fn end(note: &Path) {
        drop(Self::noted(note));
    }

    /// Raises the weight that is noted at `note` again, which a reload may have taken back. Is there one?
    pub fn renew(note: &Path) -> bool {
        Self::noted(note).and_then(Self::begin).map(Self::leave).is_some()
    }

    /// Leaves it to whoever reads the note.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    fn noted(note: &Path) -> Option<Self> {
        let mut haste: Self = serde_json::from_slice(&fs::read(note).ok()?).ok()?;
        haste.note = Some(note.into());
        Some(haste)
    }

    /// The weight of an idle group reads as 0: it stays idle.
    fn read(cgroup: &Path) -> Option<Self> {
        let file = cgroup.join("cpu.weight");
        let before = fs::read_to_string(&file).ok()?.trim().parse().ok().filter(|weight| *weight > 0)?;
        Some(Self { file, before, note: None })
    }

    fn begin(self) -> Option<Self> {
        let weight = self.before.saturating_mul(TIMES).min(MOST);
        fs::write(&self.file, weight.to_string()).ok()?;
        Some(self)
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        // A group that is gone needs none.
        let _ = fs::write(&self.file, self.before.to_string());
        if let Some(note) = &self.note {
            let _ = fs::remove_file(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a weight, and how to read that.
    fn group(weight: &str) -> (tempfile::TempDir, impl Fn() -> String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpu.weight");
        fs::write(&file, weight).unwrap();
        (dir, move || fs::read_to_string(&file).unwrap())
    }

    #[test]
    fn what_was_before_is_put_back() {
        assert!(Haste::of(tempfile::tempdir().unwrap().path()).is_none());
        for (before, during) in [("100\n", "10000"), ("300\n", "10000"), ("20\n", "2000")] {
            let (dir, weight) = group(before);
            let haste = Haste::of(dir.path()).unwrap();
            assert_eq!(weight(), during);
            drop(haste);
            assert_eq!(weight(), before.trim());
        }
        let (idle, weight) = group("0\n");
        assert!(Haste::of(idle.path()).is_none() && weight() == "0\n");
    }

    #[test]
    fn another_process_ends_what_was_left() {
        let (dir, weight) = group("100\n");
        let note = dir.path().join("run/weights/a.service");
        Haste::with_note(dir.path(), &note).unwrap().leave();
        // One that begins anew does not take the raised weight for the unit's.
        Haste::with_note(dir.path(), &note).unwrap().leave();
        assert_eq!(weight(), "10000");
        fs::write(dir.path().join("cpu.weight"), "100").unwrap();
        assert!(Haste::renew(&note) && weight() == "10000");
        Haste::end(&note);
        assert_eq!((weight().as_str(), note.exists()), ("100", false));
        assert!(Haste::noted(&note).is_none() && !Haste::renew(&note));
    }
}
