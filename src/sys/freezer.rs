//! Holding every task of a control group still (cgroups v2, "cgroup.freeze", "cgroup.kill").
//!
//! CRIU holds tasks by ptrace, and lets go of them when it dies or is not answered; what the control group holds stays
//! held, whoever dies.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the control groups are.
const ROOT: &str = "/sys/fs/cgroup";
/// How long a killed task may take to be gone: it frees its memory on the way.
const DEATH: Duration = Duration::from_secs(30);

/// A unit's control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    dir: PathBuf,
}

impl Freezer {
    /// For the group at `cgroup`, a path below /sys/fs/cgroup as systemd tells it, or a whole path.
    pub fn of(cgroup: impl AsRef<Path>) -> Self {
        let cgroup = cgroup.as_ref();
        Self { dir: Path::new(ROOT).join(cgroup.strip_prefix(ROOT).or(cgroup.strip_prefix("/")).unwrap_or(cgroup)) }
    }

    /// The one that we are in.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ours() -> io::Result<Self> {
        let ours = fs::read_to_string("/proc/self/cgroup")?;
        // "0::/system.slice/kup-restore.service" (cgroups(7), version 2 has the one line).
        Ok(Self::of(ours.trim().rsplit("::").next().unwrap_or_default()))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From the return of this on no task of the group runs in user mode; one that is traced stays with its tracer, and
    /// is held when that lets go.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "1")
    }

    /// Lets them run. A group that is gone has nobody to run.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn thaw(&self) -> io::Result<()> {
        gone_is_fine(self.write("cgroup.freeze", "0"))
    }

    /// Kills every task, frozen or not, and waits until they are gone.
    ///
    /// # Errors
    /// When one does not go.
    pub fn kill(&self) -> io::Result<()> {
        gone_is_fine(self.write("cgroup.kill", "1"))?;
        let deadline = Instant::now() + DEATH;
        while self.is_populated() {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a killed task does not go"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.dir.join("cgroup.events")).is_ok_and(|text| text.lines().any(|l| l == "populated 1"))
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        // Of a unit that has none systemd says "", which is not to mean the group of everything.
        if self.dir == Path::new(ROOT) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has no control group"));
        }
        fs::write(self.dir.join(file), text)
    }
}

/// Moves the process `pid` into our own control group.
///
/// # Errors
/// When the process is gone.
pub fn join_ours(pid: i32) -> io::Result<()> {
    Freezer::ours()?.write("cgroup.procs", &pid.to_string())
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) || e.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        other => other,
    }
}
