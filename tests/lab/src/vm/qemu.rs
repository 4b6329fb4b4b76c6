//! The QEMU process: its command line, start and end.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Spec;
use super::namespace::{Namespace, TAP};
use super::qmp::Qmp;
use super::tpm;
use crate::host::kvm;
use crate::image::{Firmware, UEFI_CODE};
use crate::{paths, sh};

const GUEST_MAC: &str = "52:54:00:77:00:02";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A QEMU, ended when dropped unless it is detached.
#[derive(Debug)]
pub struct Qemu {
    pid: Pid,
    /// `None` for one that an earlier lab has started.
    child: Mutex<Option<Child>>,
    qmp: Mutex<Qmp>,
    detached: bool,
}

impl Qemu {
    /// Starts QEMU on the machine's disk; with a tag, in the state saved under it.
    pub fn start(spec: &Spec, net: &Namespace, tag: Option<&str>) -> Result<Self> {
        let log = std::fs::File::create(spec.dir.join("qemu.log")).context("cannot write QEMU's log")?;
        let mut cmd = command(spec, net, tag)?;
        // The lock goes along as standard input: as long as QEMU runs, its namespace is in use.
        cmd.stdin(net.lock()?).stdout(Stdio::null()).stderr(log);
        std::fs::remove_file(net.dir().join("qmp.sock")).ok();
        let mut child = crate::spawner::spawn(cmd)?;
        let qmp = match Qmp::connect(&net.dir().join("qmp.sock"), START_LIMIT) {
            Ok(qmp) => qmp,
            Err(error) => {
                child.kill().ok();
                child.wait().ok();
                let said = std::fs::read_to_string(spec.dir.join("qemu.log")).unwrap_or_default();
                return Err(error.context(format!("QEMU did not start: {}", said.trim())));
            }
        };
        let pid = Pid::from_raw(child.id().try_into()?);
        Ok(Self { pid, child: Mutex::new(Some(child)), qmp: Mutex::new(qmp), detached: spec.detached })
    }

    /// Connects to a QEMU that an earlier lab has left running.
    pub fn attach(pid: i32, net: &Namespace) -> Result<Self> {
        let qmp = Qmp::connect(&net.dir().join("qmp.sock"), Duration::from_secs(5))?;
        Ok(Self { pid: Pid::from_raw(pid), child: Mutex::new(None), qmp: Mutex::new(qmp), detached: true })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a command to it.
    pub fn qmp(&self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner).execute(command, arguments)
    }

    /// Does it run?
    pub fn alive(&self) -> bool {
        match self.child.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => kill(self.pid, None).is_ok(),
        }
    }

    /// Waits for it to end by itself.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&self) {
        if self.alive() {
            kill(self.pid, Signal::SIGKILL).ok();
            self.wait(Duration::from_secs(10));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if !self.detached {
            self.kill();
        }
    }
}

/// The machine itself, without disk, network and console: the same for building the image and for running it.
pub fn machine(accelerator: &str, memory: u32) -> Vec<String> {
    let accel = if accelerator == "kvm" { "kvm" } else { "tcg,thread=multi" };
    // Nested virtualization is of no use here, and its modules slow the boot down.
    let cpu = if accelerator == "kvm" { "host" } else { "max,svm=off" };
    let memory = memory.to_string();
    let words = ["-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", &memory];
    let fixed = ["-nodefaults", "-display", "none", "-device", "virtio-rng-pci"];
    words.iter().chain(&fixed).map(|word| (*word).to_owned()).collect()
}

fn command(spec: &Spec, net: &Namespace, tag: Option<&str>) -> Result<Command> {
    let mut cmd = if spec.detached {
        let mut cmd = Command::new("setsid");
        cmd.args(["nsenter"]);
        cmd
    } else {
        let mut cmd = Command::new("setpriv");
        cmd.args(["--pdeathsig", "KILL", "nsenter"]);
        cmd
    };
    cmd.arg(format!("--net=/run/netns/{}", net.name())).args(["--", "qemu-system-x86_64"]);
    cmd.args(machine(kvm::accelerator(&spec.image.kernel())?, spec.memory));
    cmd.arg("-drive").arg(format!("file={},format=qcow2,if=virtio,discard=unmap", spec.disk().display()));
    if spec.image.about.firmware == Firmware::Uefi {
        cmd.arg("-drive").arg(format!("file={UEFI_CODE},format=raw,if=pflash,unit=0,readonly=on"));
        cmd.arg("-drive").arg(format!("file={},format=qcow2,if=pflash,unit=1", spec.vars().display()));
        cmd.args(tpm::start(spec, net)?);
    }
    cmd.args(["-netdev", &format!("tap,id=net0,ifname={TAP},script=no,downscript=no")]);
    cmd.args(["-device", &format!("virtio-net-pci,netdev=net0,mac={GUEST_MAC}")]);
    cmd.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
    let (serial, log) = (net.dir().join("serial.sock"), spec.serial());
    cmd.arg("-chardev").arg(format!(
        "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
        serial.display(),
        log.display()
    ));
    cmd.args(["-serial", "chardev:console"]);
    cmd.arg("-qmp").arg(format!("unix:{},server=on,wait=off", net.dir().join("qmp.sock").display()));
    if let Some(tag) = tag {
        cmd.args(["-loadvm", tag]);
    }
    Ok(cmd)
}

/// Makes an empty disk over `base`.
pub fn overlay(base: &Path, disk: &Path) -> Result<()> {
    let base = base.display().to_string();
    sh::run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base]).arg(disk))?;
    Ok(())
}

/// Copies a disk with the states saved in it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        bail!("there is no disk at {}", from.display());
    }
    paths::ensure(to.parent().unwrap_or(to))?;
    sh::run(Command::new("cp").args(["--reflink=auto", "--sparse=always"]).arg(from).arg(to))?;
    Ok(())
}
