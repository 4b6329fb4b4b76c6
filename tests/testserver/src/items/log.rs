//! An append-only file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::{Value, json};

use super::Item;
use crate::pattern::Fnv;

/// `requests.log` in the state directory, begun afresh by each start.
pub struct Log {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    sum: Fnv,
    lines: u64,
}

impl Log {
    pub fn new(state: &Path) -> Result<Self> {
        let path = state.join("requests.log");
        if path.exists() {
            fs::remove_file(&path)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("{}", path.display()))?;
        Ok(Self { path, inner: Mutex::new(Inner { file, sum: Fnv::new(), lines: 0 }) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line.
    pub fn append(&self, text: &str) -> Result<()> {
        let line = format!("{text}\n");
        let mut inner = self.lock();
        inner.file.write_all(line.as_bytes())?;
        inner.sum.add(line.as_bytes());
        inner.lines += 1;
        Ok(())
    }
}

impl Item for Arc<Log> {
    fn name(&self) -> &'static str {
        "log"
    }

    fn check(&mut self) -> Result<()> {
        let inner = self.lock();
        let flags = OFlag::from_bits_retain(fcntl(&inner.file, FcntlArg::F_GETFL)?);
        ensure!(flags.contains(OFlag::O_APPEND), "it lost O_APPEND");
        let found = fs::read(&self.path)?;
        let mut sum = Fnv::new();
        sum.add(&found);
        let lines = found.iter().filter(|b| **b == b'\n').count();
        ensure!(sum.0 == inner.sum.0, "{lines} lines in it, {} were written, or they differ", inner.lines);
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        Some(json!({ "lines": self.lock().lines }))
    }
}
