//! `cargo lab deb`: kup as a Debian package, built on this host from the working tree.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{paths, sh};

/// What the packaging takes from the tree, beside the binaries.
const PARTS: &[&str] = &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "dbus", "docs", "packaging", "units"];

/// The package's programs.
const PROGRAMS: &[&str] = &["kup", "kupd", "kup-worker", "kup-generator", "kup-placeholder", "kup-init"];

/// A release binary of this workspace.
pub fn binary(name: &str) -> PathBuf {
    paths::target().join("release").join(name)
}

/// A package that was built. As long as it is held, no other lab builds its own in the same place.
#[derive(Debug)]
pub struct Package {
    /// Where it is.
    pub path: PathBuf,
    _lock: File,
}

/// Builds the package.
pub fn build() -> Result<Package> {
    paths::ensure(&paths::lab())?;
    let lock = File::create(paths::lab().join("deb.lock")).context("cannot make the package's lock")?;
    lock.lock().context("cannot lock the package")?;
    let source = paths::source();
    compile(&["kup"])?;
    let out = paths::lab().join("deb");
    if out.exists() {
        fs::remove_dir_all(&out).context("cannot remove the package built before")?;
    }
    let stage = out.join("kup");
    paths::ensure(&stage.join("target/release"))?;
    for part in PARTS.iter().map(|part| source.join(part)).filter(|part| part.exists()) {
        copy(&part, &stage)?;
    }
    for program in PROGRAMS {
        copy(&binary(program), &stage.join("target/release"))?;
    }
    copy(&source.join("packaging/debian"), &stage)?;
    sh::run(Command::new("dpkg-buildpackage").args(["-b", "-us", "-uc", "-d"]).current_dir(&stage))?;
    Ok(Package { path: find(&out)?, _lock: lock })
}

/// Builds release binaries of packages of this workspace.
pub fn compile(packages: &[&str]) -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["build", "--release", "--quiet"]).current_dir(paths::source());
    for package in packages {
        cargo.args(["--package", package]);
    }
    sh::run_shown(&mut cargo)
}

/// Builds kup's programs with tests that `choice` (options of `cargo test`) names, as fast as its release binaries are.
pub fn compile_tests(choice: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = sh::cargo();
    cargo.args(["test", "--no-run", "--release", "--quiet", "--package", "kup", "--message-format", "json"]);
    let said = sh::run(cargo.args(choice).current_dir(paths::source()))?;
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter(|message| message["profile"]["test"] == true);
    Ok(tests.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect())
}

/// kup-worker with faults on demand, in a target directory of its own.
pub fn binary_with_faults() -> PathBuf {
    faults_target().join("release/kup-worker")
}

fn faults_target() -> PathBuf {
    paths::lab().join("faults-target")
}

/// Builds it.
pub fn compile_with_faults() -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args([
        "build",
        "--release",
        "--quiet",
        "--package",
        "kup",
        "--bin",
        "kup-worker",
        "--features",
        "failpoints",
    ]);
    sh::run_shown(cargo.arg("--target-dir").arg(faults_target()).current_dir(paths::source()))
}

fn copy(from: &Path, to_dir: &Path) -> Result<()> {
    sh::run(Command::new("cp").arg("-a").arg(from).arg(to_dir))?;
    Ok(())
}

fn find(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("kup_") && name.ends_with(".deb") {
            return Ok(entry.path());
        }
    }
    bail!("dpkg-buildpackage left no kup_*.deb in {}", dir.display())
}
