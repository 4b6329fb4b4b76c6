//! Directory of one run's disks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// Its presence says that a machine which was left running uses the directory.
const KEPT: &str = "kept";

/// Removed when the run ends.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes it, and removes those of labs that were killed.
    pub fn create() -> Result<Self> {
        let runs = paths::lab().join("run");
        paths::ensure(&runs)?;
        clear_stale(&runs)?;
        let dir = runs.join(std::process::id().to_string());
        paths::ensure(&dir)?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.0.join(KEPT).exists() {
            fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// Leaves the directory to a machine that runs on.
pub fn keep(dir: &Path) -> Result<()> {
    fs::write(dir.join(KEPT), "").context("cannot keep the machine's directory")
}

fn clear_stale(runs: &Path) -> Result<()> {
    let nobody_detached = crate::vm::detached()?.is_none();
    for entry in fs::read_dir(runs).context("cannot list the runs")?.flatten() {
        let running = Path::new("/proc").join(entry.file_name()).exists();
        let kept = entry.path().join(KEPT).exists();
        if !running && (!kept || nobody_detached) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
