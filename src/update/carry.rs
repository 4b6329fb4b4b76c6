//! Content of volatile directories (RuntimeDirectory=, the private /tmp, a pid file) and of shared memory with a name, carried
//! over the switch.
//!
//! GNU tar does it: it keeps owners, modes, times, ACLs and extended attributes, and is on every machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Carried;

/// Archives what of `paths` exists, as the process `pid` sees it, into `images`.
///
/// # Errors
/// When tar fails; a path that does not exist is nothing to carry.
pub fn pack(paths: impl IntoIterator<Item = String>, pid: i32, images: &Path) -> Result<Vec<Carried>> {
    let mut carried = Vec::new();
    for path in paths {
        let inside = Path::new(&format!("/proc/{pid}/root")).join(path.trim_start_matches('/'));
        let Ok(meta) = fs::metadata(&inside) else { continue };
        let archive = format!("carried-{}.tar", carried.len());
        let (dir, what) = if meta.is_dir() {
            (inside.as_path(), ".")
        } else {
            (inside.parent().context("a file has a parent")?, file_name(&path)?)
        };
        let mut tar = Command::new("tar");
        // Sockets are left out by tar itself (a warning): CRIU binds them anew.
        tar.args(["--create", "--sparse", "--acls", "--xattrs", "--warning=no-file-ignored", "--file"]);
        run(tar.arg(images.join(&archive)).arg("--directory").arg(dir).arg("--").arg(what))
            .with_context(|| format!("cannot carry over {path}"))?;
        carried.push(Carried { path, archive });
    }
    Ok(carried)
}

/// Puts back what [`pack`] took, as the process `pid` sees it.
///
/// # Errors
/// When tar fails.
pub fn unpack(carried: &[Carried], pid: i32, images: &Path) -> Result<()> {
    for c in carried {
        let inside = Path::new(&format!("/proc/{pid}/root")).join(c.path.trim_start_matches('/'));
        let dir = if inside.is_dir() { inside.as_path() } else { inside.parent().context("a file has a parent")? };
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--same-owner", "--preserve-permissions", "--numeric-owner", "--acls", "--xattrs"]);
        run(tar.arg("--file").arg(images.join(&c.archive)).arg("--directory").arg(dir))
            .with_context(|| format!("cannot bring back {}", c.path))?;
    }
    Ok(())
}

fn file_name(path: &str) -> Result<&str> {
    path.rsplit('/').next().filter(|n| !n.is_empty()).context("a file has a name")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start tar")?;
    if !output.status.success() {
        bail!("tar: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
