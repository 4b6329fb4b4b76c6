//! A running machine: QEMU in a network namespace of its own, reached by ssh from a real Linux peer.

pub mod namespace;
pub mod qemu;
pub mod qmp;
mod snapshot;
pub mod ssh;
mod state;
mod tpm;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::image::{self, Firmware, Image};
use crate::sh::Output;
use namespace::Namespace;
use qemu::Qemu;
use ssh::Ssh;
pub use state::{detached, dir as state_dir};

/// The guest's address.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// The same, as text.
pub const GUEST: &str = "10.77.0.2";

/// How long a cold boot may take under TCG on a loaded host.
pub const BOOT_LIMIT: Duration = Duration::from_secs(600);

/// How long an ordinary command in the guest may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Limits are written down for a machine of usual speed; a loaded one is this many times slower at times.
pub const SLOWEST: u32 = 3;

/// What is needed to start a machine.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Directory for its disk and console log.
    pub dir: PathBuf,
    /// The image that its disk is an overlay of.
    pub image: Image,
    /// Memory in MiB.
    pub memory: u32,
    /// Does it outlive the lab's process?
    pub detached: bool,
}

impl Spec {
    /// An ordinary machine in `dir`, ended with the lab.
    pub fn new(dir: impl Into<PathBuf>, image: &Image) -> Self {
        Self { dir: dir.into(), image: image.clone(), memory: 2048, detached: false }
    }

    /// Its disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.qcow2")
    }

    /// The variables of its firmware; only UEFI has any.
    pub fn vars(&self) -> PathBuf {
        image::vars_of(&self.disk())
    }

    /// The log of its console.
    pub fn serial(&self) -> PathBuf {
        self.dir.join("serial.log")
    }
}

/// A machine, its peer and the connections to it. Dropping it ends all three.
#[derive(Debug)]
pub struct Vm {
    spec: Spec,
    net: Namespace,
    qemu: Qemu,
    ssh: Ssh,
}

impl Vm {
    /// Makes a fresh overlay over the image and starts the machine on it.
    pub fn create(spec: Spec) -> Result<Self> {
        crate::paths::ensure(&spec.dir)?;
        qemu::overlay(&spec.image.disk(), &spec.disk())?;
        if spec.image.about.firmware == Firmware::Uefi {
            qemu::copy(&spec.image.vars(), &spec.vars())?;
        }
        fs::write(spec.serial(), "").context("cannot make the console's log")?;
        Self::start(spec, None)
    }

    /// Starts on a copy of another machine's disk, in the state that was saved there as `tag`.
    pub fn copy_of(disk: &Path, spec: Spec, tag: &str) -> Result<Self> {
        crate::paths::ensure(&spec.dir)?;
        qemu::copy(disk, &spec.disk())?;
        if spec.image.about.firmware == Firmware::Uefi {
            qemu::copy(&image::vars_of(disk), &spec.vars())?;
        }
        fs::write(spec.serial(), "").context("cannot make the console's log")?;
        Self::start(spec, Some(tag))
    }

    /// Starts on the disk that is there; with a tag, in the state saved under it.
    fn start(spec: Spec, tag: Option<&str>) -> Result<Self> {
        let net = Namespace::create()?;
        let qemu = Qemu::start(&spec, &net, tag)?;
        let ssh = Ssh::new(&net, &spec.image.key());
        let vm = Self { spec, net, qemu, ssh };
        if tag.is_some() {
            vm.set_clock()?;
        }
        Ok(vm)
    }

    /// Runs a command in the guest; gives its standard output. An exit code other than 0 is an error.
    pub fn ssh(&self, command: &str) -> Result<String> {
        let out = self.try_ssh(command, COMMAND_LIMIT)?;
        crate::sh::check(command, out)
    }

    /// Does the command end with 0? Not being reachable counts as no.
    pub fn ssh_ok(&self, command: &str) -> bool {
        self.try_ssh(command, COMMAND_LIMIT).is_ok_and(|out| out.ok())
    }

    /// Runs a command with a deadline; its exit code is for the caller to judge. 255 is ssh's own: no connection.
    pub fn try_ssh(&self, command: &str, limit: Duration) -> Result<Output> {
        self.ssh.run(command, None, limit * SLOWEST)
    }

    /// Copies a file or directory into the guest.
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        self.ssh.put(local, remote)
    }

    /// Writes a file in the guest.
    pub fn put_bytes(&self, bytes: &[u8], remote: &str) -> Result<()> {
        let path = crate::sh::quote(remote);
        let command = format!("mkdir -p \"$(dirname {path})\" && cat >{path}");
        let out = self.ssh.run(&command, Some(bytes), COMMAND_LIMIT * SLOWEST)?;
        crate::sh::check(&command, out)?;
        Ok(())
    }

    /// Copies a file or directory out of the guest.
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        self.ssh.get(remote, local)
    }

    /// Waits until a command can be run in the guest.
    pub fn wait_ssh(&self, limit: Duration) -> Result<()> {
        self.wait_until(limit, "the guest cannot be reached", |vm| vm.try_boot_id().is_some())
    }

    /// Waits for a boot other than `before` (a value of [`Vm::boot_id`]), and until it can be reached.
    pub fn wait_new_boot(&self, before: &str, limit: Duration) -> Result<()> {
        // What the boot before has left open would only hang.
        self.ssh.drop_connection();
        self.wait_until(limit, "the guest did not come up again", |vm| vm.try_boot_id().is_some_and(|id| id != before))
    }

    /// Asks again and again until `holds`; between two tries the connection is made anew.
    fn wait_until(&self, limit: Duration, otherwise: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !holds(self) {
            if !self.qemu.alive() {
                bail!("{otherwise}: QEMU has ended");
            }
            if Instant::now() > deadline {
                bail!(
                    "{otherwise} within {limit:.0?}; its console's last words: {}",
                    crate::sh::tail(&self.serial_log(), 1500)
                );
            }
            self.ssh.drop_connection();
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The boot id, when the guest can be reached: first a look at its port, which costs little when nobody answers.
    fn try_boot_id(&self) -> Option<String> {
        self.net.enter(greeting).ok()?.ok()?;
        let out = self.try_ssh("cat /proc/sys/kernel/random/boot_id", Duration::from_secs(60)).ok()?;
        out.ok().then(|| out.text().to_owned())
    }

    /// Waits until systemd has nothing left to do.
    pub fn wait_idle(&self, limit: Duration) -> Result<()> {
        // Its exit code says "degraded" as well; that is for scenarios to judge.
        self.try_ssh("systemctl is-system-running --wait", limit)?;
        Ok(())
    }

    /// Identifies the guest's current boot.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.ssh("cat /proc/sys/kernel/random/boot_id")?.trim().to_owned())
    }

    /// Release of the running kernel.
    pub fn uname(&self) -> Result<String> {
        Ok(self.ssh("uname -r")?.trim().to_owned())
    }

    /// Everything that the console has shown since the machine was made.
    pub fn serial_log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.spec.serial()).unwrap_or_default()).into_owned()
    }

    /// The other end of the guest's network.
    pub fn peer(&self) -> &Namespace {
        &self.net
    }

    /// What the machine was started from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Sends a command to QEMU.
    pub fn qmp(&self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        self.qemu.qmp(command, arguments)
    }

    /// Is QEMU still there?
    pub fn alive(&self) -> bool {
        self.qemu.alive()
    }

    /// Closes the ssh connection; the next command opens a new one. For times when the guest must not hear from it.
    pub fn drop_connection(&self) {
        self.ssh.drop_connection();
    }

    /// An interactive shell.
    pub fn shell(&self) -> Result<()> {
        self.ssh.shell()
    }

    /// Sets the guest's clock to the host's; a loaded state wakes up in the past.
    fn set_clock(&self) -> Result<()> {
        self.wait_ssh(Duration::from_secs(60))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        self.ssh(&format!("date -s @{}", now.as_secs()))?;
        Ok(())
    }
}

/// Does the guest's ssh server say hello?
fn greeting() -> std::io::Result<()> {
    let address = SocketAddr::from((GUEST_IP, 22));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    stream.read_exact(&mut [0; 4])
}
