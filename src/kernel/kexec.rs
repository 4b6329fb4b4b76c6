//! Loading the target, with errors that say what stands in the way.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::segments;
use crate::paths::Paths;
use crate::sys;
use crate::update::TargetKernel;

/// Why the target could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KexecError {
    /// The image or the initrd cannot be opened.
    #[error("cannot open {path}: {cause}; is the kernel package complete?")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is not to be known where the target's parts will be put.
    #[error("cannot see where kexec will put the target kernel: {0}")]
    Untold(io::Error),
    /// The command line holds a NUL byte.
    #[error("the command line holds a NUL byte")]
    CommandLine,
    /// The kernel refused.
    #[error("the kernel refused to load {what}: {why} ({errno})")]
    Refused {
        /// The image, or "nothing" for an unload.
        what: String,
        /// What the error number means here, and the way out.
        why: String,
        /// The error number.
        errno: Errno,
    },
}

/// Whether a target is loaded: then `systemctl kexec` works, and `systemctl reboot` silently becomes a kexec.
///
/// # Errors
/// When /sys is not mounted or the kernel was built without kexec.
pub fn loaded(paths: &Paths) -> io::Result<bool> {
    Ok(fs::read_to_string(paths.at("/sys/kernel/kexec_loaded"))?.trim() == "1")
}

/// Loads `target` with `cmdline` (kexec_file_load(2)).
///
/// # Errors
/// [`KexecError`]; what was loaded before is then still loaded.
pub fn load(paths: &Paths, target: &TargetKernel, cmdline: &str) -> Result<(), KexecError> {
    load_with(paths, target, cmdline, false)
}

/// The same; gives the physical memory that its parts will be put to at the switch.
///
/// # Errors
/// The same; also when the kernel does not tell.
pub fn load_and_tell(paths: &Paths, target: &TargetKernel, cmdline: &str) -> Result<Vec<Range<u64>>, KexecError> {
    let mut log = segments::Log::begin(paths).map_err(KexecError::Untold)?;
    load_with(paths, target, cmdline, true)?;
    log.segments().map_err(KexecError::Untold)
}

fn load_with(paths: &Paths, target: &TargetKernel, cmdline: &str, tell: bool) -> Result<(), KexecError> {
    let open = |path: &Path| File::open(path).map_err(|cause| KexecError::Open { path: path.into(), cause });
    let line = CString::new(cmdline).map_err(|_| KexecError::CommandLine)?;
    let image = open(&target.image)?;
    let initrd = target.initrd.as_deref().map(open).transpose()?;
    sys::kexec::load(image.as_fd(), initrd.as_ref().map(AsFd::as_fd), &line, tell).map_err(|errno| {
        KexecError::Refused {
            what: target.image.display().to_string(),
            why: explain(errno, &Limits::read(paths)),
            errno,
        }
    })
}

/// Unloads the target; none loaded is fine.
///
/// # Errors
/// [`KexecError::Refused`].
pub fn unload(paths: &Paths) -> Result<(), KexecError> {
    sys::kexec::unload().map_err(|errno| {
        let why = explain(errno, &Limits::read(paths));
        KexecError::Refused { what: "nothing (to unload)".into(), why, errno }
    })
}

/// What makes the kernel refuse, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// sysctl kernel.kexec_load_disabled; it can be set once and cleared only by a reboot.
    pub disabled: bool,
    /// sysctl kernel.kexec_load_limit_reboot: loads that are left; `None` where there is no limit.
    pub loads_left: Option<u32>,
    /// Lockdown mode: `integrity` or `confidentiality`; only signed kernels are taken then.
    pub lockdown: Option<String>,
}

impl Limits {
    /// Reads them; what cannot be read does not limit.
    pub fn read(paths: &Paths) -> Self {
        let value = |path: &str| fs::read_to_string(paths.at(path)).unwrap_or_default();
        let lockdown = value("/sys/kernel/security/lockdown");
        let mode = lockdown.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode);
        Self {
            disabled: value("/proc/sys/kernel/kexec_load_disabled").trim() == "1",
            loads_left: value("/proc/sys/kernel/kexec_load_limit_reboot").trim().parse().ok(),
            lockdown: mode.filter(|m| *m != "none").map(Into::into),
        }
    }
}

/// What `errno` of kexec_file_load(2) means, and the way out.
fn explain(errno: Errno, limits: &Limits) -> String {
    match errno {
        Errno::EPERM if limits.disabled => {
            "kexec is disabled until the next reboot; remove kernel.kexec_load_disabled=1 from sysctl.d and reboot"
                .into()
        }
        Errno::EPERM if limits.loads_left == Some(0) => {
            "the number of loads allowed by kernel.kexec_load_limit_reboot is used up; reboot".into()
        }
        Errno::EPERM | Errno::EKEYREJECTED | Errno::ENOKEY | Errno::EBADMSG | Errno::ENODATA => {
            match &limits.lockdown {
                Some(mode) => format!(
                    "lockdown ({mode}) lets only kernels in whose signature the running one trusts; install a signed kernel"
                ),
                None if errno == Errno::EPERM => "CAP_SYS_BOOT is missing or a security module forbids it".into(),
                None => "its signature is missing or not trusted; install a signed kernel".into(),
            }
        }
        Errno::ENOEXEC => "it is not a kernel image that this architecture can load".into(),
        Errno::EADDRNOTAVAIL => "there is no free range of physical memory that is large enough; free memory".into(),
        Errno::ENOMEM => "there is not enough memory; free memory".into(),
        Errno::EBUSY => "another kexec load or a crash is under way; try again".into(),
        Errno::ENOSYS => "the running kernel was built without CONFIG_KEXEC_FILE".into(),
        Errno::EINVAL => "it rejects the image or the command line (too long?)".into(),
        other => other.desc().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(Limits::read(&paths), Limits::default());
        assert!(loaded(&paths).is_err());
        for (path, text) in [
            ("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
            ("/proc/sys/kernel/kexec_load_limit_reboot", "-1\n"),
            ("/sys/kernel/kexec_loaded", "1\n"),
        ] {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), text).unwrap();
        }
        let limits = Limits::read(&paths);
        assert_eq!(limits, Limits { disabled: false, loads_left: None, lockdown: Some("integrity".into()) });
        assert!(loaded(&paths).unwrap());
        assert!(explain(Errno::EPERM, &limits).contains("lockdown (integrity)"));
        assert!(explain(Errno::EPERM, &Limits { disabled: true, ..limits }).contains("kexec_load_disabled"));
        assert!(explain(Errno::EKEYREJECTED, &Limits::default()).contains("signature"));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("vmlinuz-1");
        let target = TargetKernel { release: "1".into(), image: image.clone(), initrd: None };
        let paths = Paths::host();
        assert!(matches!(load(&paths, &target, "ro"), Err(KexecError::Open { .. })));
        fs::write(&image, "not a kernel").unwrap();
        assert!(matches!(load(&paths, &target, "a\0b"), Err(KexecError::CommandLine)));
        // As root on an unrestricted machine this is ENOEXEC; anywhere else the kernel has its reasons to refuse sooner.
        let refused = load(&paths, &target, "ro").unwrap_err().to_string();
        assert!(refused.contains("refused to load") && refused.contains("vmlinuz-1"), "{refused}");
    }
}
