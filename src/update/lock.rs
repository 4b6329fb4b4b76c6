//! The lock that whoever changes the record holds.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// Held until dropped; a process that dies loses it.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// How long whoever has something short to do waits for others who have: giving an update up writes a boot loader's menu.
    pub const MOMENT: Duration = Duration::from_secs(10);

    /// As [`Lock::take`], but waits for at most `timeout` for whoever holds it.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn wait(path: &Path, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            match Self::try_take(path)? {
                Some(lock) => return Ok(lock),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                None => bail!("another update is under way ('kup status' shows it)"),
            }
        }
    }

    /// Takes the lock at `path`.
    ///
    /// # Errors
    /// When another process holds it (at once, without waiting), or the file cannot be made.
    pub fn take(path: &Path) -> Result<Self> {
        Self::wait(path, Duration::ZERO)
    }

    fn try_take(path: &Path) -> Result<Option<Self>> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_second_waits_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/lock");
        let first = Lock::take(&path).unwrap();
        assert!(Lock::take(&path).unwrap_err().to_string().contains("under way"));
        let brief = Duration::from_millis(100);
        assert!(Lock::wait(&path, brief).is_err());
        let release = std::thread::spawn(move || {
            std::thread::sleep(brief);
            drop(first);
        });
        let second = Lock::wait(&path, Lock::MOMENT).unwrap();
        release.join().unwrap();
        drop(second);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn what_no_patience_helps_fails_at_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let begun = Instant::now();
        assert!(Lock::wait(&dir.path().join("file/lock"), Duration::from_secs(60)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
