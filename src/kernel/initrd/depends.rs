//! Which modules a kernel needs for a module or a device.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command;

/// A module of another kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needed {
    /// Its file.
    pub file: PathBuf,
    /// What it is loaded with.
    pub options: String,
}

/// What kernel `release` loads for `names` (of modules, or aliases of devices), in this order. An `alias` that the kernel
/// has no module for needs none.
///
/// # Errors
/// When a module is not there, or one is loaded by a command of the administrator's.
pub fn of(release: &str, modules: &[String], aliases: &[String]) -> Result<Vec<Needed>> {
    let ask = |name: &str| command::run(Path::new("/usr/sbin/modprobe"), &["-S", release, "--show-depends", name]);
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    let of_aliases = aliases.iter().filter_map(|alias| ask(alias).ok());
    let of_modules = modules.iter().map(|module| ask(module));
    for said in of_aliases.map(Ok).chain(of_modules) {
        all.extend(parse(&said?)?.into_iter().filter(|needed| seen.insert(needed.file.clone())));
    }
    Ok(all)
}

/// "insmod FILE [OPTION...]", "builtin NAME" and "install COMMAND", a line each (modprobe(8)).
fn parse(said: &str) -> Result<Vec<Needed>> {
    let mut needed = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_once(' ').with_context(|| format!("modprobe says '{line}'"))? {
            ("insmod", rest) => {
                let (file, options) = rest.split_once(' ').unwrap_or((rest, ""));
                needed.push(Needed { file: file.into(), options: options.trim().into() });
            }
            ("builtin", _) => {}
            _ => bail!("a module is loaded by a command: '{line}'"),
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_modprobe_says() {
        let said = "builtin crc32c\ninsmod /lib/modules/1/a.ko.xz \ninsmod /lib/modules/1/b.ko x=1 y=2\n";
        let expected = [("/lib/modules/1/a.ko.xz", ""), ("/lib/modules/1/b.ko", "x=1 y=2")];
        let expected = expected.map(|(file, options)| Needed { file: file.into(), options: options.into() });
        assert_eq!(parse(said).unwrap(), expected);
        assert!(parse("install /usr/local/bin/load-it $CMDLINE_OPTS").unwrap_err().to_string().contains("load-it"));
        assert!(parse("").unwrap().is_empty());
    }
}
