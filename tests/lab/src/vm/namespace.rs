//! The peer: a network namespace of this host with a tap device, so that the guest talks to a real Linux.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{paths, sh};

/// Address of the peer.
pub const PEER: &str = "10.77.0.1";

/// The tap device's name inside.
pub const TAP: &str = "tap0";

/// All machines see the same peer, so that a saved state fits every one of them.
const PEER_MAC: &str = "52:54:00:77:00:01";

const MOST: u32 = 64;

/// A namespace that belongs to one machine. Whoever holds its lock owns it: the lab, or a QEMU that outlives the lab.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    dir: PathBuf,
    /// `None` for a namespace that a detached machine owns.
    lock: Option<File>,
}

impl Namespace {
    /// Takes the first free number and makes its namespace, with the tap device up.
    pub fn create() -> Result<Self> {
        for number in 1..=MOST {
            let dir = paths::run().join(number.to_string());
            if let Some(lock) = take(&dir)? {
                let net = Self { name: name(number), dir, lock: Some(lock) };
                clear(&net.name)?;
                net.set_up()?;
                return Ok(net);
            }
        }
        bail!("{MOST} machines run already")
    }

    /// The namespace of a detached machine.
    pub fn attach(name: &str) -> Result<Self> {
        let number = name.rsplit('-').next().unwrap_or_default();
        Ok(Self { name: name.to_owned(), dir: paths::run().join(number), lock: None })
    }

    fn set_up(&self) -> Result<()> {
        sh::run(Command::new("ip").args(["netns", "add", &self.name]))?;
        let ip = |line: &str| sh::run(Command::new("ip").args(["-n", &self.name]).args(line.split(' ')));
        ip("link set lo up")?;
        ip(&format!("tuntap add {TAP} mode tap"))?;
        ip(&format!("link set {TAP} address {PEER_MAC} up"))?;
        ip(&format!("address add {PEER}/24 dev {TAP}"))?;
        Ok(())
    }

    /// Its name, for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where sockets of its machine are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A program that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut cmd = Command::new("nsenter");
        cmd.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        cmd
    }

    /// The lock as an open file, for a QEMU that is to share it.
    pub fn lock(&self) -> Result<Stdio> {
        match &self.lock {
            Some(lock) => Ok(Stdio::from(lock.try_clone()?)),
            None => Ok(Stdio::null()),
        }
    }

    /// Leaves the namespace to the QEMU that shares its lock.
    pub fn detach(&mut self) {
        self.lock = None;
    }

    /// Was it left to its QEMU?
    pub fn owner_is_qemu(&self) -> bool {
        self.lock.is_none()
    }

    /// Owns a namespace that was left to its QEMU, once that is gone.
    pub fn own(&mut self) -> Result<()> {
        self.lock = take(&self.dir)?;
        ensure!(self.lock.is_some(), "{} is still in use", self.name);
        Ok(())
    }

    /// Is nobody holding the lock, that is: has the QEMU of this namespace ended?
    pub fn free(&self) -> Result<bool> {
        Ok(take(&self.dir)?.is_some())
    }

    /// Runs `work` on a thread inside the namespace, and waits for it. Sockets made there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = self.open()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET).context("cannot enter the peer's network")?;
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("a thread in the peer's network panicked"))?
        })
    }

    /// Starts a thread inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T>>> {
        let netns = self.open()?;
        Ok(std::thread::spawn(move || {
            nix::sched::setns(&netns, CloneFlags::CLONE_NEWNET).context("cannot enter the peer's network")?;
            Ok(work())
        }))
    }

    fn open(&self) -> Result<File> {
        let path = format!("/run/netns/{}", self.name);
        File::open(&path).with_context(|| format!("cannot open {path}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.lock.is_some() {
            clear(&self.name).ok();
        }
    }
}

/// Removes what labs that were killed have left.
pub fn clear_stale() -> Result<()> {
    for number in 1..=MOST {
        let dir = paths::run().join(number.to_string());
        if dir.exists() && take(&dir)?.is_some() {
            clear(&name(number))?;
        }
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("kup-lab-{number}")
}

/// The lock of a machine's directory, unless someone holds it.
fn take(dir: &Path) -> Result<Option<File>> {
    paths::ensure(dir)?;
    let path = dir.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
    Ok(lock.try_lock().is_ok().then_some(lock))
}

/// Ends every process inside and removes the namespace.
pub fn clear(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    let pids = sh::run(Command::new("ip").args(["netns", "pids", name]))?;
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
        // Gone already is as good.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
    sh::run(Command::new("ip").args(["netns", "delete", name]))?;
    for socket in ["qmp.sock", "serial.sock", "ssh.sock", "tpm.sock"] {
        let number = name.rsplit('-').next().unwrap_or_default();
        fs::remove_file(paths::run().join(number).join(socket)).ok();
    }
    Ok(())
}
