//! What goes before the rest of the boot during a restore, and for how long.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::paths::Paths;
use crate::sys::freezer::Freezer;
use crate::sys::haste::{self, Haste};
use crate::unit::UnitName;

/// The rest of the boot hardly moves meanwhile, and what is late in it fails: `DefaultTimeoutStartSec=` and
/// `DefaultDeviceTimeoutSec=` are 90 s. Twenty units on a slow machine take longer, and udevd failed for that.
const WITHIN: Duration = Duration::from_secs(30);

/// The time in which a restore goes first.
pub struct Hurry<'a> {
    paths: &'a Paths,
    /// The control group of this process; its unit begins with the most (`CPUWeight=`).
    ours: Option<PathBuf>,
    until: Instant,
}

impl<'a> Hurry<'a> {
    /// From now on.
    pub fn begin(paths: &'a Paths) -> Self {
        Self { paths, ours: Freezer::ours().ok().map(|ours| ours.dir().into()), until: Instant::now() + WITHIN }
    }

    /// Lets `unit`, whose control group is at `cgroup`, go first; `None` where that cannot be, or it is too late for it.
    pub fn of(&self, cgroup: &Path, unit: &str) -> Option<Haste> {
        let late = Instant::now() >= self.until;
        (!late).then(|| Haste::with_note(cgroup, &self.paths.weight(unit))).flatten()
    }

    /// Ends it in time for this process and `units`, unless the other end of `ended` is let go of before.
    pub fn end_in_time<'u>(&self, units: impl Iterator<Item = &'u UnitName>, ended: &Receiver<()>) {
        let left = self.until.saturating_duration_since(Instant::now());
        if ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        tracing::info!("the rest of the boot has its part of the processors again: the restore takes its time");
        if let Some(ours) = &self.ours {
            haste::forgo(ours);
        }
        for unit in units {
            Haste::end(&self.paths.weight(unit.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn nothing_goes_first_for_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let (weight, unit) = (dir.path().join("cpu.weight"), "a.service".parse::<UnitName>().unwrap());
        fs::write(&weight, "100").unwrap();
        let read = || fs::read_to_string(&weight).unwrap();
        let ours = tempfile::tempdir().unwrap();
        let mut hurry = Hurry { ours: Some(ours.path().into()), ..Hurry::begin(&paths) };
        hurry.of(dir.path(), unit.as_str()).unwrap().leave();
        let (going_on, ended) = mpsc::channel();
        drop(going_on);
        hurry.end_in_time(std::iter::once(&unit), &ended);
        assert_eq!(read(), "10000", "its pager sees to it from here on");
        hurry.until = Instant::now();
        let (_going_on, ended) = mpsc::channel();
        hurry.end_in_time(std::iter::once(&unit), &ended);
        assert_eq!(read(), "100");
        assert_eq!(fs::read_to_string(ours.path().join("cpu.weight")).unwrap(), "100");
        assert!(hurry.of(dir.path(), unit.as_str()).is_none() && !Haste::renew(&paths.weight(unit.as_str())));
    }
}
