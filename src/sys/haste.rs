//! Letting a control group go before all others for a while (cgroups v2, "cpu.weight").

use std::fs;
use std::path::{Path, PathBuf};

/// The most that the kernel takes; others have 100 where nobody said otherwise.
const FIRST: &str = "10000";

/// A control group that goes before others as long as this lives. systemd is not asked to do it: it would keep the weight
/// in a drop-in, and a reload does not take it back.
#[derive(Debug)]
pub struct Haste {
    file: PathBuf,
    before: String,
}

impl Haste {
    /// For the group at `cgroup`; `None` where there is none yet, or nobody has its processors shared by weight.
    pub fn of(cgroup: &Path) -> Option<Self> {
        let file = cgroup.join("cpu.weight");
        let before = fs::read_to_string(&file).ok()?;
        fs::write(&file, FIRST).ok()?;
        Some(Self { file, before })
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        // A group that is gone needs none.
        let _ = fs::write(&self.file, self.before.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Haste::of(dir.path()).is_none());
        let file = dir.path().join("cpu.weight");
        fs::write(&file, "300\n").unwrap();
        let haste = Haste::of(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), FIRST);
        drop(haste);
        assert_eq!(fs::read_to_string(&file).unwrap(), "300");
    }
}
