//! The state that every scenario starts from: booted, kup installed, idle.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::booted::{self, BOOTED};
use crate::deb;
use crate::image::Image;
use crate::paths;
use crate::vm::{Spec, Vm};

/// Name of the saved state.
pub const READY: &str = "ready";

/// Takes a booted machine, installs kup in it and saves it as [`READY`]; it goes on running.
pub fn prepare(spec: Spec) -> Result<Vm> {
    let package = deb::build()?;
    let vm = prepare_with(spec, |vm| install(vm, &package))?;
    Ok(vm)
}

/// The same without kup, as the machine was before it was installed.
pub fn prepare_bare(spec: Spec) -> Result<Vm> {
    prepare_with(spec, |_| Ok(()))
}

fn prepare_with(spec: Spec, then: impl FnOnce(&Vm) -> Result<()>) -> Result<Vm> {
    deb::compile(&["kup-testserver"])?;
    let booted = booted::ensure(&spec.image, spec.memory)?;
    let started = Instant::now();
    let vm = Vm::copy_of(&booted, spec, BOOTED)?;
    put_testserver(&vm)?;
    then(&vm)?;
    vm.ssh("sync; journalctl --sync")?;
    vm.delvm(BOOTED)?;
    vm.savevm(READY)?;
    println!("lab: ready after {:.0} s", started.elapsed().as_secs_f64());
    Ok(vm)
}

/// Installs (or installs again) a package of kup.
pub fn install(vm: &Vm, file: &Path) -> Result<()> {
    vm.put(file, "/root/kup.deb")?;
    vm.ssh("DEBIAN_FRONTEND=noninteractive dpkg -i /root/kup.deb").context("kup cannot be installed in the guest")?;
    vm.wait_idle(Duration::from_secs(60))
}

/// The test server is a program of this workspace; it is copied, not packaged. Scenarios that need it start it.
fn put_testserver(vm: &Vm) -> Result<()> {
    let source = paths::source().join("tests/testserver");
    vm.put(&deb::binary("kup-testserver"), "/usr/local/bin/kup-testserver")?;
    vm.put(&source.join("kup-testserver.service"), "/etc/systemd/system/kup-testserver.service")?;
    vm.ssh("mkdir -p /etc/sysusers.d")?;
    vm.put(&source.join("kup-testserver.sysusers"), "/etc/sysusers.d/kup-testserver.conf")?;
    vm.ssh("systemd-sysusers && systemctl daemon-reload")?;
    Ok(())
}

/// The image's facts, for messages.
pub fn describe(image: &Image) -> String {
    format!("runs {}, {} can be installed", image.about.old_kernel, image.about.new_kernel)
}
