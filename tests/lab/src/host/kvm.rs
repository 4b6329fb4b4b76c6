//! Does KVM work here? A device node proves nothing: a stock kernel has to boot on it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::paths;

/// A kernel without a root file system panics once it is up; that message is the proof.
const BOOTED: &str = "Unable to mount root fs";

/// KVM needs about a second for it. A machine on which it takes longer is better off with TCG.
const LIMIT: Duration = Duration::from_secs(15);

/// The accelerator to give to QEMU: `kvm` when `kernel` boots on it, `tcg` otherwise. Probed once per host boot.
pub fn accelerator(kernel: &Path) -> Result<&'static str> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let cached = paths::cache()?.join("accelerator");
    if let Some((of_boot, found)) = fs::read_to_string(&cached).unwrap_or_default().split_once(' ')
        && of_boot == boot_id.trim()
    {
        return Ok(if found.trim() == "kvm" { "kvm" } else { "tcg" });
    }
    let found = if Path::new("/dev/kvm").exists() && boots(kernel)? { "kvm" } else { "tcg" };
    fs::write(&cached, format!("{} {found}\n", boot_id.trim())).context("cannot note the accelerator")?;
    println!("lab: accelerator: {found}");
    Ok(found)
}

fn boots(kernel: &Path) -> Result<bool> {
    let log = paths::cache()?.join("kvm-probe.log");
    let out = fs::File::create(&log).context("cannot write the probe's log")?;
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-smp", "2", "-m", "256", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-kernel"])
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot run qemu-system-x86_64")?;
    let deadline = Instant::now() + LIMIT;
    let mut booted = false;
    while !booted && Instant::now() < deadline && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(100));
        booted = fs::read_to_string(&log).unwrap_or_default().contains(BOOTED);
    }
    booted |= String::from_utf8_lossy(&fs::read(&log)?).contains(BOOTED);
    child.kill().ok();
    child.wait()?;
    Ok(booted)
}
