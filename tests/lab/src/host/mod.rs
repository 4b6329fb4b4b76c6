//! The machine that the lab runs on: its packages, its mirror, whether KVM works, being root.

pub mod kvm;
pub mod mirror;
pub mod packages;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

/// Network namespaces and chroots need root: starts the lab again under sudo when it is not.
pub fn become_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let cache = crate::paths::cache()?;
    let mut sudo = Command::new("sudo");
    sudo.arg("--preserve-env").arg("env");
    sudo.arg(format!("XDG_CACHE_HOME={}", cache.parent().unwrap_or(&cache).display()));
    if let Some(path) = std::env::var_os("PATH") {
        sudo.arg(format!("PATH={}", path.to_string_lossy()));
    }
    let error = sudo.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).exec();
    bail!("the lab needs root, and sudo cannot be run: {error}")
}
