//! The state that every scenario starts from: booted, kup installed, idle.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::deb;
use crate::image::Image;
use crate::vm::{BOOT_LIMIT, Spec, Vm};

/// Name of the saved state.
pub const READY: &str = "ready";

/// Boots a machine, installs kup in it and saves it as [`READY`]; it goes on running.
pub fn prepare(spec: Spec) -> Result<Vm> {
    let started = Instant::now();
    let package = deb::build()?;
    let vm = Vm::create(spec)?;
    vm.wait_ssh(BOOT_LIMIT)?;
    vm.wait_idle(BOOT_LIMIT)?;
    let booted = started.elapsed();
    match package {
        Some(file) => install(&vm, &file)?,
        None => eprintln!("lab: packaging/debian does not exist yet: the machine starts without kup"),
    }
    put_testserver(&vm)?;
    vm.ssh("sync; journalctl --flush --sync 2>/dev/null || true")?;
    vm.savevm(READY)?;
    println!("lab: ready in {:.0} s (booted after {:.0} s)", started.elapsed().as_secs_f64(), booted.as_secs_f64());
    Ok(vm)
}

/// Installs (or installs again) a package of kup.
pub fn install(vm: &Vm, file: &Path) -> Result<()> {
    vm.put(file, "/root/kup.deb")?;
    vm.ssh("DEBIAN_FRONTEND=noninteractive dpkg -i /root/kup.deb").context("kup cannot be installed in the guest")?;
    vm.wait_idle(Duration::from_secs(60))
}

/// The test server is a program of this workspace; it is copied as it is, not packaged.
fn put_testserver(vm: &Vm) -> Result<()> {
    let program = deb::binary("testserver");
    if program.exists() {
        vm.put(&program, "/usr/local/bin/testserver")?;
    }
    Ok(())
}

/// The image's facts, for messages.
pub fn describe(image: &Image) -> String {
    format!("runs {}, {} can be installed", image.about.old_kernel, image.about.new_kernel)
}
