//! Where things are: the source tree, the build's output, the cache, the run-time directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Root of the source tree.
pub fn source() -> PathBuf {
    let lab =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    lab.ancestors().nth(2).unwrap_or(&lab).to_path_buf()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => source().join(dir),
        None => source().join("target"),
    }
}

/// The lab's own output: logs, packages, disks in use. `KUP_LAB_DIR` puts it elsewhere, so that two labs do not meet.
pub fn lab() -> PathBuf {
    std::env::var_os("KUP_LAB_DIR").map_or_else(|| target().join("lab"), PathBuf::from)
}

/// What is slow to make and worth keeping between runs.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(base.join("kup-lab"))
}

/// Sockets and locks of running machines. Short, because a socket's path is limited to 108 bytes.
pub fn run() -> &'static Path {
    Path::new("/run/kup-lab")
}

/// Makes a directory with its parents.
pub fn ensure(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}
