//! The kernel's source as Debian ships it, for the release that the guest runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::mirror;
use crate::{paths, sh};

/// Unpacks the source that belongs to a release such as `6.12.117+deb13-cloud-amd64`, and gives its directory.
pub fn unpack(release: &str, dir: &Path) -> Result<PathBuf> {
    let series: Vec<&str> = release.split('.').take(2).collect();
    let name = format!("linux-source-{}", series.join("."));
    let package = download(&name)?;
    sh::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(dir))?;
    sh::run(Command::new("tar").arg("-xJf").arg(dir.join(format!("usr/src/{name}.tar.xz"))).arg("-C").arg(dir))?;
    let tree = dir.join(&name);
    if !tree.join("Makefile").exists() {
        bail!("{} holds no kernel source", package.display());
    }
    Ok(tree)
}

/// Downloads a package of the guest's release; this host's own package lists are left alone.
fn download(name: &str) -> Result<PathBuf> {
    let dir = paths::cache()?.join("kernel-source");
    if let Some(package) = find(&dir, name) {
        return Ok(package);
    }
    for part in ["lists/partial", "archives/partial"] {
        paths::ensure(&dir.join(part))?;
    }
    let mirror = mirror::of_host();
    let keyring = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = format!(
        "deb [{keyring}] {} trixie main\ndeb [{keyring}] {} trixie-security main\n",
        mirror.debian, mirror.security
    );
    fs::write(dir.join("sources.list"), sources).context("cannot write the cache")?;
    apt(&dir, &["update"])?;
    apt(&dir, &["download", name])?;
    find(&dir, name).with_context(|| format!("apt-get did not leave {name} in {}", dir.display()))
}

fn apt(dir: &Path, args: &[&str]) -> Result<()> {
    let mut cmd = Command::new("apt-get");
    for (option, part) in [
        ("Dir::Etc::SourceList", "sources.list"),
        ("Dir::Etc::SourceParts", "none"),
        ("Dir::State::Lists", "lists"),
        ("Dir::Cache", "."),
    ] {
        cmd.arg("-o").arg(format!("{option}={}", dir.join(part).display()));
    }
    sh::run(cmd.args(["-q", "-o", "APT::Sandbox::User=root"]).args(args).current_dir(dir))?;
    Ok(())
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    files.find(|file| file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_"))))
}
