//! The image with UEFI and systemd-boot: the same root file system on a disk with an EFI system partition.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{About, Firmware, Image, describe, disk, vars_of};
use crate::host::packages;
use crate::sh;

/// What is needed on the host, beyond what every image needs.
const NEEDED: &[&str] = &["dosfstools", "ovmf", "swtpm"];
/// The firmware, and its variables as they leave the factory.
pub const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

const SCRIPT: &str = "setup-systemd-boot";
const DONE: &str = "kup-lab: systemd-boot is installed";
/// The other image has its file system at 1 MiB, without end. Here the EFI system partition lies before it.
const ESP_MIB: u64 = 256;
const TABLE: &str = "label: gpt\n\
    start=2048, size=524288, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n\
    start=526336, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n";

/// Clusters of 1 KiB: with larger ones it has too few of them for FAT 32, which the firmware minds.
const FAT: &[&str] = &["--offset=2048", "-F", "32", "-s", "2", "-n", "KUP-ESP"];

/// What the result depends on, beyond the other image.
pub fn recipe() -> Vec<&'static str> {
    [&[DONE, TABLE, "the firmware's variables as a qcow2", "a TPM"], FAT].concat()
}

/// Installs what machines with UEFI need on the host.
pub fn ensure_host() -> Result<()> {
    packages::ensure_these(NEEDED)
}

/// Makes `dir` an image out of `bios`.
pub fn build(dir: &Path, bios: &Image) -> Result<()> {
    for name in ["id", "id.pub", "vmlinuz", "initrd.img", "config"] {
        fs::copy(bios.dir.join(name), dir.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    let raw = dir.join("disk.raw");
    copy_disk(bios, &raw)?;
    sh::run(Command::new("mkfs.fat").args(FAT).arg(&raw).arg((ESP_MIB << 10).to_string()))?;
    disk::first_boot(dir, &raw, SCRIPT, DONE).context("systemd-boot could not be installed")?;
    let qcow2 = dir.join("disk.qcow2");
    disk::to_qcow2(&raw, &qcow2)?;
    fs::remove_file(&raw)?;
    // QEMU saves states only in machines where everything that can be written to is a qcow2.
    disk::to_qcow2(Path::new(VARS), &vars_of(&qcow2))?;
    describe(dir, &About { firmware: Firmware::Uefi, ..bios.about.clone() })
}

/// The other image's file system, moved to where its partition is here.
fn copy_disk(bios: &Image, raw: &Path) -> Result<()> {
    let whole = raw.with_extension("bios");
    sh::run(Command::new("qemu-img").args(["convert", "-O", "raw"]).args([&bios.disk(), &whole]))?;
    let size = fs::metadata(&whole)?.len();
    // The table's copy at the end of the disk takes its last MiB.
    File::create(raw)?.set_len(size + ((ESP_MIB + 1) << 20)).context("cannot make the disk's file")?;
    disk::partition(raw, TABLE)?;
    let seek = format!("seek={}", 1 + ESP_MIB);
    let (from, to) = (format!("if={}", whole.display()), format!("of={}", raw.display()));
    sh::run(Command::new("dd").args(["bs=1M", "skip=1", "conv=sparse,notrunc", "status=none", &seek, &from, &to]))?;
    Ok(fs::remove_file(&whole)?)
}
