//! How much memory the machine has, proc_meminfo(5).

use std::fs;

use anyhow::{Context, Result};

use crate::paths::Paths;

/// Reads the field `key` of /proc/meminfo, bytes.
///
/// # Errors
/// When /proc is not mounted, or there is no such field.
pub fn read(paths: &Paths, key: &str) -> Result<u64> {
    let text = fs::read_to_string(paths.at("/proc/meminfo")).context("cannot read /proc/meminfo")?;
    field(&text, key).with_context(|| format!("/proc/meminfo has no {key}"))
}

/// The field `key` of what /proc/meminfo says, bytes.
pub fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
