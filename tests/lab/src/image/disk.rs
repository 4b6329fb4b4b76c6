//! From root directory to bootable disk.
//!
//! Not every host gives loop devices partition nodes, so nothing is mounted: the file system is made in place at
//! its offset, and GRUB installs itself from inside, in a first boot without it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::About;
use crate::host::kvm;
use crate::sh;

const SIZE_MIB: u64 = 6144;
const LABEL: &str = "kup-root";
const DONE: &str = "kup-lab: GRUB is installed";
const LIMIT: Duration = Duration::from_secs(300);

/// What the result depends on.
pub fn recipe() -> Vec<&'static str> {
    vec![LABEL, DONE, "6144 MiB, one ext4 partition at 1 MiB"]
}

/// Makes `dir/disk.qcow2` from `dir/root`, and removes what is needed no more.
pub fn build(dir: &Path, about: &About) -> Result<()> {
    let raw = dir.join("disk.raw");
    File::create(&raw)?.set_len(SIZE_MIB << 20).context("cannot make the disk's file")?;
    partition(&raw)?;
    sh::run(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", LABEL, "-E", "offset=1048576", "-d"])
            .arg(dir.join("root"))
            .arg(&raw)
            .arg(format!("{}M", SIZE_MIB - 1)),
    )?;
    install_grub(dir, &raw).with_context(|| format!("GRUB could not be installed on kernel {}", about.old_kernel))?;
    sh::run(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([&raw, &dir.join("disk.qcow2")]))?;
    fs::remove_file(&raw)?;
    super::remove(&dir.join("root"))?;
    super::remove(&dir.join("files"))
}

fn partition(raw: &Path) -> Result<()> {
    let table = b"label: dos\nstart=2048, type=83, bootable\n";
    let out = sh::capture(Command::new("sfdisk").arg("--quiet").arg(raw), Some(table), None)?;
    sh::check("sfdisk", out)?;
    Ok(())
}

fn install_grub(dir: &Path, raw: &Path) -> Result<()> {
    let kernel = dir.join("vmlinuz");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(crate::vm::qemu::machine(kvm::accelerator(&kernel)?, 1024));
    qemu.args(["-no-reboot", "-serial", "stdio", "-nic", "none", "-kernel"]).arg(&kernel);
    qemu.arg("-initrd").arg(dir.join("initrd.img"));
    qemu.args(["-append", &format!("root=LABEL={LABEL} console=ttyS0 init=/srv/kup-lab/setup-grub")]);
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", raw.display()));
    let console = sh::run_within(&mut qemu, LIMIT)?;
    if !console.contains(DONE) {
        bail!("the first boot did not get through: {}", sh::tail(&console, 3000));
    }
    Ok(())
}
