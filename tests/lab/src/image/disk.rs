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
const GRUB: &str = "setup-grub";
const DONE: &str = "kup-lab: GRUB is installed";
/// Without KVM a machine was once seen to stand still here, with a processor busy.
const LIMIT: Duration = Duration::from_secs(300);

/// What the result depends on.
pub fn recipe() -> Vec<&'static str> {
    vec![LABEL, DONE, "6144 MiB, one ext4 partition at 1 MiB"]
}

/// Makes `dir/disk.qcow2` from `dir/root`, and removes what is needed no more.
pub fn build(dir: &Path, about: &About) -> Result<()> {
    let raw = dir.join("disk.raw");
    File::create(&raw)?.set_len(SIZE_MIB << 20).context("cannot make the disk's file")?;
    partition(&raw, "label: dos\nstart=2048, type=83, bootable\n")?;
    sh::run(
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", LABEL, "-E", "offset=1048576", "-d"])
            .arg(dir.join("root"))
            .arg(&raw)
            .arg(format!("{}M", SIZE_MIB - 1)),
    )?;
    first_boot(dir, &raw, GRUB, DONE)
        .with_context(|| format!("GRUB could not be installed on kernel {}", about.old_kernel))?;
    to_qcow2(&raw, &dir.join("disk.qcow2"))?;
    fs::remove_file(&raw)?;
    super::remove(&dir.join("root"))?;
    super::remove(&dir.join("files"))
}

/// Writes a partition table, in the words of sfdisk(8).
pub fn partition(raw: &Path, table: &str) -> Result<()> {
    let out = sh::capture(Command::new("sfdisk").arg("--quiet").arg(raw), Some(table.as_bytes()), None)?;
    sh::check("sfdisk", out)?;
    Ok(())
}

/// Copies a raw disk, or what else QEMU takes for one, to a qcow2.
pub fn to_qcow2(from: &Path, to: &Path) -> Result<()> {
    sh::run(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).args([from, to]))?;
    Ok(())
}

/// Boots the kernel that lies in `dir`, on the disk `raw`, with a script of /srv/kup-lab as its first process, which
/// says `done` on the console at its end.
pub fn first_boot(dir: &Path, raw: &Path, script: &str, done: &str) -> Result<()> {
    let kernel = dir.join("vmlinuz");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(crate::vm::qemu::machine(kvm::accelerator(&kernel)?, 1024));
    qemu.args(["-no-reboot", "-serial", "stdio", "-nic", "none", "-kernel"]).arg(&kernel);
    qemu.arg("-initrd").arg(dir.join("initrd.img"));
    let line = format!("root=LABEL={LABEL} ro console=ttyS0 net.ifnames=0 init=/srv/kup-lab/{script}");
    qemu.args(["-append", &line]);
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", raw.display()));
    let console = sh::run_within(&mut qemu, LIMIT).or_else(|e| {
        println!("lab: once more, because {e:#}");
        sh::run_within(&mut qemu, LIMIT)
    })?;
    if !console.contains(done) {
        bail!("the first boot did not get through: {}", sh::tail(&console, 3000));
    }
    Ok(())
}
