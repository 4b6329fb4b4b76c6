//! The image booted once and saved: a boot takes half a minute without KVM, and is the same every time.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::host::kvm;
use crate::image::{Firmware, Image, vars_of};
use crate::sh;
use crate::vm::{BOOT_LIMIT, Spec, Vm, qemu};

/// Name of the saved state.
pub const BOOTED: &str = "booted";

/// A disk with a freshly booted, idle machine saved in it as [`BOOTED`]; from the cache, or made now.
pub fn ensure(image: &Image, memory: u32) -> Result<PathBuf> {
    let name = format!("booted-{}", key(image, memory)?);
    let disk = image.dir.join(format!("{name}.qcow2"));
    let lock = File::create(image.dir.join("lock")).context("cannot write to the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if disk.exists() {
        return Ok(disk);
    }
    println!("lab: booting the image (once)");
    let dir = image.dir.join(format!(".{name}"));
    let vm = Vm::create(Spec { memory, ..Spec::new(&dir, image) })?;
    vm.wait_ssh(BOOT_LIMIT)?;
    vm.wait_idle(BOOT_LIMIT)?;
    vm.savevm(BOOTED)?;
    vm.quit()?;
    if image.about.firmware == Firmware::Uefi {
        // The disk last: its presence says that both are there.
        fs::rename(vars_of(&dir.join("disk.qcow2")), vars_of(&disk)).context("cannot keep the firmware's variables")?;
    }
    fs::rename(dir.join("disk.qcow2"), &disk).context("cannot keep the booted machine")?;
    fs::remove_dir_all(&dir).context("cannot remove the booted machine's directory")?;
    Ok(disk)
}

/// A state fits the QEMU and the machine that it was saved with, and with KVM the processor.
fn key(image: &Image, memory: u32) -> Result<String> {
    let accelerator = kvm::accelerator(&image.kernel())?;
    let mut hash = Sha256::new();
    hash.update(sh::run(Command::new("qemu-system-x86_64").arg("--version"))?);
    hash.update(qemu::machine(accelerator, memory).join(" "));
    if accelerator == "kvm" {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
        let same = |line: &&str| line.starts_with("model name") || line.starts_with("flags");
        cpuinfo.lines().filter(same).take(2).for_each(|line| hash.update(line));
    }
    Ok(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
