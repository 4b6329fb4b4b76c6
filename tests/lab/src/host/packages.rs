//! Programs that the lab needs on the host, installed when they are missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::mirror;
use crate::sh;

/// Everything the lab calls, as Debian packages.
const NEEDED: &[&str] = &[
    "build-essential",
    "debhelper",
    "dpkg-dev",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "lintian",
    "mmdebstrap",
    "nftables",
    "openssh-client",
    "pkg-config",
    "procps",
    "qemu-system-x86",
    "qemu-utils",
    "systemd",
    "util-linux",
    "zstd",
];

/// Debian 12's own QEMU is too old to match the backported `qemu-utils`: both come from there.
const FROM_BACKPORTS: &[&str] = &["qemu-system-x86", "qemu-utils"];

/// Programs looked for on a host without dpkg, where the lab cannot install anything.
const PROGRAMS: &[&str] = &["qemu-system-x86_64", "qemu-img", "mmdebstrap", "mke2fs", "sfdisk", "ip", "ssh", "nsenter"];

/// Installs what is missing; `apt-get update` runs at most once, and only if something is.
pub fn ensure() -> Result<()> {
    if which("dpkg-query").is_none() {
        let missing: Vec<_> = PROGRAMS.iter().filter(|name| which(name).is_none()).collect();
        if !missing.is_empty() {
            bail!("this host is no Debian: install these programs by hand: {missing:?}");
        }
        return Ok(());
    }
    ensure_these(NEEDED)
}

/// The same for other packages.
pub fn ensure_these(needed: &[&'static str]) -> Result<()> {
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("lab: installing {}", missing.join(" "));
    let bookworm = debian_version()? == "12";
    if bookworm && missing.iter().any(|name| FROM_BACKPORTS.contains(name)) {
        add_backports()?;
    }
    apt(&["update"])?;
    let (backports, plain): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|name| bookworm && FROM_BACKPORTS.contains(name));
    install(&plain, None)?;
    install(&backports, Some("bookworm-backports"))
}

fn install(names: &[&str], suite: Option<&str>) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    if let Some(suite) = suite {
        args.extend(["-t", suite]);
    }
    args.extend(names);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    sh::run(Command::new("apt-get").arg("-q").args(args).env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(())
}

fn add_backports() -> Result<()> {
    let text = format!(
        "# Written by kup's lab: QEMU for Debian 12.\n\
         Types: deb\nURIs: {}\nSuites: bookworm-backports\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
        mirror::of_host().debian
    );
    std::fs::write("/etc/apt/sources.list.d/kup-lab.sources", text).context("cannot add the backports suite")
}

fn debian_version() -> Result<String> {
    let text = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let version = text.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    Ok(version.unwrap_or_default().trim_matches('"').to_owned())
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]);
    sh::capture(&mut query, None, None).is_ok_and(|out| out.ok() && out.text() == "installed")
}

/// A program's path, looked up as a shell would.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}
