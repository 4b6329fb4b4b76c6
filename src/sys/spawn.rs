//! Starting a program inside another process's cgroup and namespaces.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::libc;

/// Descriptors that a child is to find get numbers from here on: above all that std::process uses for itself, below
/// the usual soft limit of 1024.
pub const FIRST_FD: RawFd = 400;
/// Where their sources are kept meanwhile, so that no dup2 overwrites a source that is still needed.
const FIRST_SOURCE: RawFd = 700;

/// What CRIU leaves to tasks as it has it itself: CPUAffinity=, IOSchedulingClass= and -Priority= of a unit.
#[derive(Debug)]
struct Scheduling {
    cpus: libc::cpu_set_t,
    io: libc::c_int,
}

/// IOPRIO_WHO_PROCESS of ioprio_set(2).
const ONE_PROCESS: libc::c_int = 1;

/// Where a child is to live. The default is: where we do.
#[derive(Debug, Default)]
pub struct Place {
    cgroup: Option<File>,
    no_groups: bool,
    no_huge_pages: bool,
    namespaces: Vec<File>,
    scheduling: Option<Scheduling>,
    fds: Vec<(OwnedFd, RawFd)>,
}

impl Place {
    /// Born in the control group at `path` (below /sys/fs/cgroup).
    ///
    /// # Errors
    /// When the group does not exist.
    pub fn cgroup(mut self, path: &Path) -> io::Result<Self> {
        self.cgroup = Some(aside(&OpenOptions::new().write(true).open(path.join("cgroup.procs"))?)?.into());
        Ok(self)
    }

    /// Without supplementary groups: CRIU leaves its own to a task whose image has none.
    pub fn without_groups(mut self) -> Self {
        self.no_groups = true;
        self
    }

    /// Without transparent huge pages, nor for what it forks (PR_SET_THP_DISABLE of prctl(2)).
    pub fn without_huge_pages(mut self) -> Self {
        self.no_huge_pages = true;
        self
    }

    /// Inside the namespaces of `kinds` (`mnt`, `net`, …) that the process `pid` has. Whoever made one in a user namespace
    /// of its own rules over it: what root started there would be what they put there.
    ///
    /// # Errors
    /// When the process is gone, or such a namespace is not the machine's.
    pub fn namespaces(mut self, pid: i32, kinds: &[String]) -> io::Result<Self> {
        for kind in kinds {
            let namespace = File::open(format!("/proc/{pid}/ns/{kind}"))?;
            if !is_the_machines(&namespace)? {
                return Err(io::Error::other(format!("its {kind} namespace belongs to a user namespace of its own")));
            }
            self.namespaces.push(aside(&namespace)?.into());
        }
        Ok(self)
    }

    /// On the CPUs and with the I/O priority that the process `pid` has.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn scheduled_like(mut self, pid: i32) -> io::Result<Self> {
        // SAFETY: all bits zero is a valid, empty set; the kernel fills it up to the size that it is told.
        let (cpus, ret) = unsafe {
            let mut cpus: libc::cpu_set_t = std::mem::zeroed();
            let ret = libc::sched_getaffinity(pid, size_of::<libc::cpu_set_t>(), &mut cpus);
            (cpus, ret)
        };
        // SAFETY: two numbers.
        let io = unsafe { libc::syscall(libc::SYS_ioprio_get, ONE_PROCESS, pid) } as libc::c_int;
        if ret < 0 || io < 0 {
            return Err(io::Error::last_os_error());
        }
        self.scheduling = Some(Scheduling { cpus, io });
        Ok(self)
    }

    /// With `fd` open in the child; the number that it has there is returned.
    ///
    /// # Errors
    /// EMFILE.
    pub fn give(&mut self, fd: OwnedFd) -> io::Result<RawFd> {
        let number = FIRST_FD + self.fds.len() as RawFd;
        self.fds.push((aside(&fd)?, number));
        Ok(number)
    }

    /// Makes `command` start there.
    pub fn apply(self, command: &mut Command) {
        let enter = move || self.enter();
        // SAFETY: between fork and exec only async-signal-safe system calls are made: write, setgroups, dup2, setns.
        unsafe { command.pre_exec(enter) };
    }

    /// Runs in the child. The cgroup comes first (its file is the host's), the mount namespace with the others last.
    fn enter(&self) -> io::Result<()> {
        let check = |ret: libc::c_int| if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        if let Some(cgroup) = &self.cgroup {
            // SAFETY: one byte from a static string.
            check(unsafe { libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) } as libc::c_int)?;
        }
        if self.no_groups {
            // SAFETY: an empty list needs no memory. The raw call: libc's wrapper would synchronise threads.
            check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) } as libc::c_int)?;
        }
        if self.no_huge_pages {
            // SAFETY: integers only.
            check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
        }
        if let Some(Scheduling { cpus, io }) = &self.scheduling {
            // SAFETY: the set lives as long as we do, and has this size.
            check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) })?;
            // SAFETY: three numbers.
            check(unsafe { libc::syscall(libc::SYS_ioprio_set, ONE_PROCESS, 0, *io) } as libc::c_int)?;
        }
        for (source, number) in &self.fds {
            // SAFETY: both are numbers below the limit; the target is not in use (see FIRST_FD).
            check(unsafe { libc::dup2(source.as_raw_fd(), *number) })?;
        }
        for namespace in &self.namespaces {
            // SAFETY: an open namespace file; 0 means whatever kind it is.
            check(unsafe { libc::setns(namespace.as_raw_fd(), 0) })?;
        }
        Ok(())
    }
}

/// A duplicate of `fd` that no number of [`FIRST_FD`] takes the place of.
fn aside(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC on a descriptor that is open; the result is a new one, checked below.
    let source = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST_SOURCE) };
    if source < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and checked.
    Ok(unsafe { OwnedFd::from_raw_fd(source) })
}

nix::ioctl_none!(
    /// NS_GET_USERNS of linux/nsfs.h.
    ns_get_userns,
    0xb7,
    0x1
);

/// Is `namespace` one of the user namespace that we are in (NS_GET_USERNS of ioctl_ns(2))?
fn is_the_machines(namespace: &File) -> io::Result<bool> {
    // SAFETY: the request takes no argument; what it returns is a new descriptor.
    let owner = unsafe { File::from(OwnedFd::from_raw_fd(ns_get_userns(namespace.as_raw_fd())?)) };
    let (owner, own) = (owner.metadata()?, std::fs::metadata("/proc/self/ns/user")?);
    Ok((owner.dev(), owner.ino()) == (own.dev(), own.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_huge_pages_for_it_and_its_children() {
        let enabled = |place: Place| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "cat /proc/self/status"]);
            place.apply(&mut command);
            let status = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("THP_enabled:"));
            line.map(|value| value.trim().to_owned())
        };
        if enabled(Place::default()).as_deref() == Some("1") {
            assert_eq!(enabled(Place::default().without_huge_pages()).as_deref(), Some("0"));
        } else {
            eprintln!("SKIPPED: this kernel has no transparent huge pages, or does not tell");
        }
    }

    #[test]
    fn nobody_elses_namespaces() {
        let kinds = ["net".to_owned()];
        let own = std::process::id() as i32;
        assert!(Place::default().namespaces(own, &kinds).is_ok());
        let mut child = Command::new("unshare").args(["-U", "-n", "sleep", "60"]).spawn().unwrap();
        let pid = child.id() as i32;
        let begun = std::time::Instant::now();
        let entered = || {
            let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            net(&pid.to_string()) != net("self")
        };
        while !entered() && child.try_wait().unwrap().is_none() && begun.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if entered() && child.try_wait().unwrap().is_none() {
            let e = Place::default().namespaces(pid, &kinds).unwrap_err();
            assert!(e.to_string().contains("net namespace"), "{e}");
        } else {
            eprintln!("SKIPPED: no user namespaces here");
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
