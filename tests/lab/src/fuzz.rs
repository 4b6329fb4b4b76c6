//! `cargo lab fuzz`: the targets of `tests/fuzz`, one after the other, under libFuzzer.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cli::FuzzArgs;
use crate::host::packages;
use crate::{paths, sh};

/// Seconds that one input may take, and MiB that it may take up, before it counts as a finding.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=2048"];

/// Does it; gives the exit code. A finding does not keep the other targets from being run.
pub fn run(args: &FuzzArgs) -> Result<u8> {
    let all = targets()?;
    if args.list {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(0);
    }
    if let Some(unknown) = args.names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target `{unknown}`: `cargo lab fuzz --list` shows them");
    }
    ensure()?;
    let chosen = if args.names.is_empty() { &all } else { &args.names };
    let mut found = 0;
    for name in chosen {
        println!("lab: fuzzing {name} for {} s", args.seconds);
        if let Err(error) = fuzz(name, args.seconds) {
            println!("FAILED {name}: {error:#}");
            found += 1;
        }
    }
    println!("{} passed, {found} failed", chosen.len() - found);
    Ok(u8::from(found > 0))
}

/// The names of all targets, which are those of their sources.
fn targets() -> Result<Vec<String>> {
    let sources = dir().join("fuzz_targets");
    let entries = fs::read_dir(&sources).with_context(|| format!("cannot list {}", sources.display()))?;
    let names = entries.flatten().filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".rs")?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// New inputs go to the lab's own corpus; the committed one is read only.
fn fuzz(name: &str, seconds: u64) -> Result<()> {
    let grown = paths::lab().join("fuzz/corpus").join(name);
    paths::ensure(&grown)?;
    let mut cargo = cargo("run");
    // No sanitizer: all of it is safe code, and runs twice as fast, on the stable compiler, without.
    cargo.args(["--sanitizer", "none", "--target-dir"]).arg(paths::target().join("fuzz")).arg("--fuzz-dir").arg(dir());
    cargo.arg(name).arg(grown).arg(dir().join("corpus").join(name));
    cargo.arg("--").args(LIMITS).arg(format!("-max_total_time={seconds}"));
    sh::run_shown(&mut cargo)
}

/// Installs cargo-fuzz and a C++ compiler for libFuzzer, where they are missing.
fn ensure() -> Result<()> {
    if packages::which("c++").is_none() {
        packages::ensure_these(&["build-essential"])?;
    }
    if sh::capture(&mut cargo("--version"), None, None).is_ok_and(|out| out.ok()) {
        return Ok(());
    }
    println!("lab: installing cargo-fuzz");
    sh::run_shown(sh::cargo().args(["install", "--quiet", "--locked", "cargo-fuzz"]))
}

fn cargo(verb: &str) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(["fuzz", verb]).current_dir(dir());
    cargo
}

fn dir() -> PathBuf {
    paths::source().join("tests/fuzz")
}
