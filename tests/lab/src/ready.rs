//! The state that every scenario starts from: booted, kup installed, idle.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::booted::{self, BOOTED};
use crate::deb;
use crate::image::{Firmware, Image};
use crate::paths;
use crate::vm::{Spec, Vm};

/// Name of the saved state.
pub const READY: &str = "ready";
/// Name of the saved state in which, beyond [`READY`], the new kernel is installed by apt and [`UNITS`] are marked: what a
/// scenario that is not about the way there starts from.
pub const STAGED: &str = "staged";
/// Name of [`READY`] on a machine with UEFI and systemd-boot.
pub const SYSTEMD_BOOT: &str = "ready-systemd-boot";
/// The stock units of the main job, and our own.
pub const UNITS: [&str; 4] = ["memcached.service", "redis-server.service", "nginx.service", "kup-testserver.service"];
/// An emulated machine beside others is many times slower than a real one; what a scenario sets itself counts all the same.
const PATIENCE: &[u8] = b"DeadmanSec = 900\nBootTimeoutSec = 800\nRestoreTimeoutSec = 200\n";
/// Size of what nginx sends, at 64 KiB a second: longer than an update takes.
const DOWNLOAD: u32 = 10 << 20;

/// [`UNITS`] without those of `wanted`, as a command takes them.
pub fn units_but(wanted: &[&str]) -> String {
    let others: Vec<_> = UNITS.into_iter().filter(|unit| !wanted.contains(unit)).collect();
    others.join(" ")
}

/// What a machine is booted by in a saved state.
pub fn firmware(state: &str) -> Firmware {
    if state == SYSTEMD_BOOT { Firmware::Uefi } else { Firmware::Bios }
}

/// The first state of a machine with this image, [`READY`] or [`SYSTEMD_BOOT`].
pub fn first_state(image: &Image) -> &'static str {
    match image.about.firmware {
        Firmware::Bios => READY,
        Firmware::Uefi => SYSTEMD_BOOT,
    }
}

/// Takes a booted machine, installs kup in it and saves it as [`first_state`]; it goes on running.
pub fn prepare(spec: Spec) -> Result<Vm> {
    let package = deb::build()?;
    let vm = prepare_with(spec, |vm| install(vm, &package.path))?;
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
    vm.savevm(first_state(&vm.spec().image))?;
    println!("lab: ready after {:.0} s", started.elapsed().as_secs_f64());
    Ok(vm)
}

/// Takes a machine that is [`READY`] on to [`STAGED`].
pub fn stage(vm: &Vm) -> Result<()> {
    let started = Instant::now();
    install_kernel(vm)?;
    mark(vm)?;
    vm.ssh("sync; journalctl --sync")?;
    vm.savevm(STAGED)?;
    println!("lab: staged after {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Installs the new kernel from the machine's own repository, as an administrator would; gives apt's words.
pub fn install_kernel(vm: &Vm) -> Result<String> {
    let new = &vm.spec().image.about.new_kernel;
    vm.ssh("apt-get -q update")?;
    vm.ssh(&format!("DEBIAN_FRONTEND=noninteractive apt-get -q install -y linux-image-{new}"))
}

/// Configures [`UNITS`] (memory for memcached, a slow download from nginx), marks them and starts them anew, so that
/// what kup adjusts is in force.
pub fn mark(vm: &Vm) -> Result<()> {
    vm.ssh("sed -i 's/^-m .*/-m 512/' /etc/memcached.conf")?;
    vm.put_bytes(b"limit_rate 64k;\n", "/etc/nginx/conf.d/slow.conf")?;
    vm.ssh(&format!("head -c {DOWNLOAD} /dev/urandom > /var/www/html/large; chmod 644 /var/www/html/large"))?;
    vm.ssh(&format!("kup preserve {0} && systemctl restart {0}", UNITS.join(" ")))?;
    // memcached is a Type=simple service: systemd does not wait until it listens.
    crate::guest::listens(vm)
}

/// Installs (or installs again) a package of kup.
pub fn install(vm: &Vm, file: &Path) -> Result<()> {
    vm.put(file, "/root/kup.deb")?;
    vm.put_bytes(PATIENCE, "/usr/lib/kup/kup.toml.d/50-lab.toml")?;
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
