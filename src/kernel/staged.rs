//! The kernel that the package hook remembered as the next target.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::check_release;
use crate::paths::Paths;
use crate::sys::atomic;
use crate::update::now_usec;

/// What `kup stage` and the package hook leave behind; nothing is loaded by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    /// The kernel's release.
    pub release: String,
    /// When it was staged, microseconds since the epoch.
    pub staged_usec: u64,
}

impl Staged {
    /// `release`, staged now.
    ///
    /// # Errors
    /// When `release` is no release.
    pub fn now(release: &str) -> Result<Self> {
        check_release(release)?;
        Ok(Self { release: release.into(), staged_usec: now_usec() })
    }

    /// What is staged, if anything is.
    ///
    /// # Errors
    /// When the file exists and cannot be read or holds something else.
    pub fn read(paths: &Paths) -> Result<Option<Self>> {
        let path = paths.staged();
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let damaged = || format!("{} is damaged; remove it, and stage the kernel again", path.display());
        Self::parse(&text).with_context(damaged).map(Some)
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// When it is something else, or names no release.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let staged: Self = serde_json::from_slice(text)?;
        check_release(&staged.release)?;
        Ok(staged)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, paths: &Paths) -> Result<()> {
        let path = paths.staged();
        atomic::write(&path, &serde_json::to_vec(self)?, 0o644)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Forgets what is staged; nothing staged is fine.
    ///
    /// # Errors
    /// When the file exists and cannot be removed.
    pub fn remove(paths: &Paths) -> Result<()> {
        let path = paths.staged();
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.with_context(|| format!("cannot remove {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_of_a_stage() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(Staged::read(&paths).unwrap(), None);
        Staged::remove(&paths).unwrap();
        let staged = Staged::now("6.12.107+deb13-cloud-amd64").unwrap();
        staged.write(&paths).unwrap();
        assert_eq!(Staged::read(&paths).unwrap(), Some(staged));
        Staged::remove(&paths).unwrap();
        assert_eq!(Staged::read(&paths).unwrap(), None);
        for damaged in ["", "{}", r#"{"release":"../x","staged_usec":1}"#] {
            fs::write(paths.staged(), damaged).unwrap();
            assert!(Staged::read(&paths).unwrap_err().to_string().contains("staged.json is damaged"), "{damaged}");
        }
        assert!(Staged::now("a b").is_err());
    }
}
