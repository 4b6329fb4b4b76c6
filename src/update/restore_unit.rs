//! Restoring one unit inside the sandbox that systemd built for its placeholder.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc::{O_CREAT, O_EXCL, O_TRUNC};

use super::hurry::Hurry;
use super::{ExternalFile, UnitRecord, carry};
use crate::criu::{self, Restore};
use crate::sys::freezer::Freezer;
use crate::sys::haste::Haste;
use crate::sys::pidfd::PidFd;
use crate::sys::spawn::Place;
use crate::systemd::{Status, Systemd};
use crate::unit::UnitName;

/// The name that the kernel shows for the placeholder (15 bytes at most, proc(5)).
const PLACEHOLDER: &str = "kup-placeholder";
const POLL: Duration = Duration::from_millis(20);
/// How often PID 1 is asked: it has all of the boot to do meanwhile.
const ASK: Duration = Duration::from_millis(500);

/// Whether `pid` is a placeholder.
pub fn is_placeholder(pid: i32) -> bool {
    pid > 0 && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == PLACEHOLDER)
}

/// Whether one is in the control group at `cgroup`.
fn stands_in(cgroup: &Path) -> bool {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|pid| pid.parse().ok()).any(is_placeholder)
}

/// The fresh process that systemd started for a unit, in the sandbox that the restored one is to live in.
#[derive(Debug)]
pub struct Placeholder {
    /// Its PID.
    pub pid: i32,
    /// The unit's control group below /sys/fs/cgroup.
    pub cgroup: PathBuf,
    handle: PidFd,
    /// Ends with it, unless it is handed over: then the unit's memory is still on its way.
    haste: Option<Haste>,
}

impl Placeholder {
    /// Waits until systemd has built the sandbox and the placeholder pauses in it, most likely in the control group that
    /// the unit had before. Where that came to nothing systemd tries again, in the unit's turn: it may have been started
    /// before something was there that it needs. From when it has a control group it goes before all others, as long as
    /// there is `hurry`.
    ///
    /// # Errors
    /// When the unit failed, or it is not there by `deadline`.
    pub fn wait(
        systemd: &Systemd,
        unit: &UnitName,
        before: &Freezer,
        hurry: &Hurry,
        deadline: Instant,
    ) -> Result<Self> {
        let (mut haste, mut asked, mut again) = (None, None::<Instant>, false);
        loop {
            haste = haste.or_else(|| hurry.of(before.dir(), unit.as_str()));
            if !stands_in(before.dir()) && asked.is_some_and(|at| at.elapsed() < ASK) {
                std::thread::sleep(POLL);
                continue;
            }
            asked = Some(Instant::now());
            let (active, queued) = systemd.activity(unit.as_str())?;
            match active.as_str() {
                "failed" | "inactive" if !queued && again => {
                    bail!("its sandbox could not be built; see 'journalctl -u {unit}'");
                }
                "failed" | "inactive" if !queued => {
                    tracing::warn!("{unit}: systemd has not built its sandbox ({active}); it tries again");
                    systemd.start(unit.as_str())?;
                    again = true;
                }
                "activating" | "active" => {
                    if let Some(placeholder) = Self::of(&systemd.status(unit.as_str())?)? {
                        return Ok(Self { haste, ..placeholder });
                    }
                }
                _ => {}
            }
            if Instant::now() > deadline {
                bail!("systemd had not started it in time (it is {active})");
            }
            std::thread::sleep(POLL);
        }
    }

    /// The placeholder that a unit's main process is; `None` where it is something else.
    ///
    /// # Errors
    /// When it has just ended.
    pub fn of(status: &Status) -> Result<Option<Self>> {
        if !is_placeholder(status.main_pid) {
            return Ok(None);
        }
        let cgroup = Path::new("/sys/fs/cgroup").join(status.cgroup.trim_start_matches('/'));
        let handle = PidFd::open(status.main_pid)?;
        Ok(Some(Self { pid: status.main_pid, cgroup, handle, haste: None }))
    }

    /// Restores `record` from `images` in its place. `resume` as in [`Restore::run`].
    ///
    /// # Errors
    /// The reason; no task of the unit but the placeholder is left then.
    pub fn restore(&self, record: &UnitRecord, images: &Path, resume: impl FnMut(i32) -> bool) -> Result<i32> {
        carry::unpack(&record.carried, self.pid, images)?;
        let criu = criu::program().context("criu is not installed any more")?;
        let files = record.files.iter().map(|f| Ok((f.key.clone(), open(f, images)?)));
        let job = Restore {
            criu: &criu,
            images,
            place: Place::default()
                .cgroup(&self.cgroup)
                .context("its control group is gone")?
                .without_groups()
                .scheduled_like(self.pid)
                .context("its placeholder is gone")?
                .namespaces(self.pid, &record.namespaces)
                .context("its sandbox is gone")?,
            files: files.collect::<Result<_>>()?,
            streams: self.streams(&record.streams)?,
            lazy: true,
        };
        Ok(job.run(resume)?)
    }

    /// The journal's streams: the first dumped one was the standard output, a second one the standard error.
    fn streams(&self, inodes: &[u64]) -> Result<Vec<(u64, OwnedFd)>> {
        let fds = (1..=2).chain(std::iter::repeat(2));
        inodes.iter().zip(fds).map(|(inode, fd)| Ok((*inode, self.handle.get_fd(fd)?))).collect()
    }

    /// Tells systemd that `main_pid` is the unit's main process and that it is up, and ends the placeholder. The unit goes
    /// before all others until its pager has brought its memory.
    ///
    /// # Errors
    /// When systemd has not taken it over by `deadline`. The placeholder stays: with its main process a unit ends as a whole.
    pub fn hand_over(self, systemd: &Systemd, unit: &UnitName, main_pid: i32, deadline: Instant) -> Result<()> {
        // systemd believes only processes of the unit's own control group, and looks at it while the sender lives.
        let mut command = Command::new("/proc/self/exe");
        command.args(["notify", &main_pid.to_string()]).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", "/run/systemd/notify");
        Place::default().cgroup(&self.cgroup)?.apply(&mut command);
        let mut notifier = command.spawn().context("cannot start the notifier")?;
        let result = loop {
            let status = systemd.status(unit.as_str())?;
            if status.main_pid == main_pid && status.active == "active" {
                break Ok(());
            }
            if Instant::now() > deadline {
                break Err(anyhow::anyhow!("systemd does not take {main_pid} as the main process"));
            }
            std::thread::sleep(POLL);
        };
        let _ = notifier.kill();
        let _ = notifier.wait();
        if result.is_ok() {
            self.end();
            if let Some(haste) = self.haste {
                haste.leave();
            }
        }
        result
    }

    /// Whether `pid` lives beside it in the unit.
    pub fn has(&self, pid: i32) -> bool {
        let procs = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        procs.lines().any(|line| line.parse() == Ok(pid))
    }

    /// The unit's control group, to hold it still.
    pub fn freezer(&self) -> Freezer {
        Freezer::of(&self.cgroup)
    }

    /// Kills everything in the unit but the placeholder.
    pub fn kill_others(&self) {
        let procs = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p != self.pid) {
            if let Ok(handle) = PidFd::open(pid) {
                let _ = handle.kill();
            }
        }
    }

    /// Ends the placeholder.
    pub fn end(&self) {
        if let Err(e) = self.handle.kill() {
            tracing::debug!("placeholder {}: {e}", self.pid);
        }
    }
}

/// What stands for a dumped file: the same file of the host, or the copy of one that was deleted. The host's is opened by
/// the path that the kernel gave for it, which led over no link: one that is there now was put there since.
fn open(file: &ExternalFile, images: &Path) -> Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(file.flags & !(O_CREAT | O_EXCL | O_TRUNC)) | OFlag::O_CLOEXEC;
    let (path, resolve) = match &file.copy {
        Some(copy) => (images.join(copy), ResolveFlag::empty()),
        None => (PathBuf::from(&file.path), ResolveFlag::RESOLVE_NO_SYMLINKS),
    };
    let opened = openat2(AT_FDCWD, &path, OpenHow::new().flags(flags).resolve(resolve));
    opened.with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap().join("real");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&real, real.with_file_name("link")).unwrap();
        let open_at = |dir: &str, copy: Option<&str>| {
            let path = real.with_file_name(dir).join("file").display().to_string();
            let (key, copy) = (String::new(), copy.map(str::to_owned));
            open(&ExternalFile { key, path, flags: nix::libc::O_RDWR | O_CREAT, copy }, &real)
        };
        assert!(open_at("real", None).is_ok() && open_at("gone", Some("file")).is_ok());
        assert!(format!("{:#}", open_at("link", None).unwrap_err()).contains("link/file"));
    }
}
