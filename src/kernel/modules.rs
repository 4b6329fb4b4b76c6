//! Kernel modules: which of them a kernel comes with, and loading them.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

/// How a kernel comes with a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shipped {
    /// As a file.
    Module,
    /// Built in, so that nothing keeps it from being used.
    BuiltIn,
    /// Not at all.
    Missing,
}

/// How the kernel `release` comes with `module`.
///
/// # Errors
/// When its list of modules cannot be read.
pub fn shipped(paths: &Paths, release: &str, module: &str) -> io::Result<Shipped> {
    let list = |file: &str| fs::read_to_string(paths.at("/lib/modules").join(release).join(file));
    let is_it = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split_once(".ko").is_some_and(|(name, _)| name.replace('-', "_") == module)
    };
    if list("modules.dep")?.lines().filter_map(|l| l.split(':').next()).any(is_it) {
        return Ok(Shipped::Module);
    }
    let built_in = list("modules.builtin").unwrap_or_default().lines().any(is_it);
    Ok(if built_in { Shipped::BuiltIn } else { Shipped::Missing })
}

/// Runs modprobe(8).
///
/// # Errors
/// What it says.
pub fn modprobe(arguments: &[&str]) -> Result<()> {
    let line = format!("modprobe {}", arguments.join(" "));
    let output = Command::new("modprobe")
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run '{line}'"))?;
    if !output.status.success() {
        bail!("'{line}' failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Has the kernel load `modules`; one that cannot be loaded may be built in.
pub fn load(modules: &[&str]) {
    if let Err(e) = modprobe(&[&["-a"], modules].concat()) {
        tracing::debug!("{e:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_ships() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let modules = paths.at("/lib/modules/6.12.1");
        fs::create_dir_all(&modules).unwrap();
        let dep = "kernel/drivers/watchdog/sp5100-tco.ko.xz: kernel/drivers/watchdog/watchdog.ko.xz\n";
        fs::write(modules.join("modules.dep"), dep).unwrap();
        fs::write(modules.join("modules.builtin"), "kernel/drivers/watchdog/softdog.ko\n").unwrap();
        let ask = |module| shipped(&paths, "6.12.1", module).unwrap();
        assert_eq!(ask("sp5100_tco"), Shipped::Module);
        assert_eq!(ask("watchdog"), Shipped::Missing, "what is only needed does not count");
        assert_eq!(ask("softdog"), Shipped::BuiltIn);
        assert!(shipped(&paths, "6.12.2", "softdog").is_err());
    }
}
