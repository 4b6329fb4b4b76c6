//! Boot loaders: while an update is under way, the one that a reset would go through must boot the old kernel.

mod efi;
pub(crate) mod grub;
mod systemd_boot;

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};

pub use grub::Grub;
pub use systemd_boot::SystemdBoot;

use crate::paths::Paths;
use crate::preflight::{Finding, Severity};
use crate::update::{Pin, Record};

const GRUB: &str = "grub";
const SYSTEMD_BOOT: &str = "systemd-boot";

/// A boot loader, as far as an update needs one.
pub trait BootLoader {
    /// The word that [`Pin::loader`] holds.
    fn name(&self) -> &'static str;

    /// The pin that would make `release` (the running kernel's) what boots by default, with what stands in its place now.
    /// Changes nothing, so that the pin can be recorded before it is made.
    ///
    /// # Errors
    /// When there is no entry for `release`, or what stands in the pin's place could not be put back.
    fn plan(&self, release: &str) -> Result<Pin>;

    /// Makes `release`, for which `pin` was planned, what boots by default, whatever is installed meanwhile. Synced.
    ///
    /// # Errors
    /// When it cannot be made so, or was not so when looked at again; everything is then as it was.
    fn pin(&self, pin: &Pin, release: &str) -> Result<()>;

    /// Puts back what was there before the pin. Doing it twice, or without [`BootLoader::pin`] before, is fine.
    ///
    /// # Errors
    /// When a file cannot be written or the boot loader's own tool fails; it can be tried again.
    fn unpin(&self, pin: &Pin) -> Result<()>;

    /// Takes the pin away and makes `release`, the new kernel, what boots by default. The boot loader's own choice is
    /// left alone where it is `release` anyway.
    ///
    /// # Errors
    /// As [`BootLoader::pin`]; if it fails, the pin stays.
    fn bless(&self, pin: &Pin, release: &str) -> Result<()>;

    /// Release of what boots by default; `None` where that is no Linux kernel or cannot be told.
    ///
    /// # Errors
    /// When the boot loader's files cannot be read.
    fn default_release(&self) -> Result<Option<String>>;

    /// What stands in the way of a pin.
    fn findings(&self) -> Vec<Finding>;
}

/// The boot loader that this machine was booted by. LoaderInfo stays what it was over a kexec.
///
/// # Errors
/// When it is one that kup cannot pin.
pub fn detect(paths: &Paths) -> Result<Box<dyn BootLoader>> {
    let info = efi::loader(paths, "LoaderInfo")?.unwrap_or_default();
    if info.starts_with("systemd-boot") {
        return Ok(Box::new(SystemdBoot::new(paths)?));
    }
    // GRUB says so with its module bli, where it has that; else its command line is what it is known by.
    let cmdline = fs::read_to_string(paths.cmdline()).unwrap_or_default();
    let by_grub = |word: &&str| word.starts_with("BOOT_IMAGE=");
    if !info.starts_with("GRUB") && !crate::kernel::cmdline::split(&cmdline).iter().any(by_grub) {
        bail!(
            "this machine was booted neither by systemd-boot nor by GRUB (no BOOT_IMAGE= in /proc/cmdline, which \
             'kexec --reuse-cmdline' leaves out), and kup can pin no other boot loader"
        );
    }
    Ok(Box::new(Grub::new(paths)?))
}

/// The boot loader that `pin` was made for: what was written there is taken away there, whatever this boot came by.
///
/// # Errors
/// When its tools are not there any more.
pub fn of(pin: &Pin, paths: &Paths) -> Result<Box<dyn BootLoader>> {
    match pin.loader.as_str() {
        GRUB => Ok(Box::new(Grub::new(paths)?)),
        SYSTEMD_BOOT => Ok(Box::new(SystemdBoot::new(paths)?)),
        other => bail!("this version of kup does not know the boot loader '{other}'"),
    }
}

/// Was `pin` planned while `earlier` was in force in the same boot loader? What it replaces is then what that one had put
/// there, and nobody has chosen anything else between them.
pub fn follows(pin: &Pin, earlier: &Pin) -> bool {
    let set = |before: &str| match pin.loader.as_str() {
        GRUB => grub::sets(before, &earlier.entry),
        _ => before == earlier.entry,
    };
    pin.loader == earlier.loader && pin.before.as_deref().is_some_and(set)
}

/// Looks whether `pin` still makes `release` what a reset would boot.
///
/// # Errors
/// When it does not; says what else would be booted, or what stands in the way.
pub fn holds(pin: &Pin, paths: &Paths, release: &str) -> Result<()> {
    let loader = of(pin, paths)?;
    let booted = loader.default_release()?;
    if booted.as_deref() != Some(release) {
        let instead = booted.map_or("something else".into(), |r| format!("kernel {r}"));
        bail!("the boot loader was changed since it was pinned: it would boot {instead} and not kernel {release}");
    }
    let mut found = loader.findings().into_iter().chain(efi::boot_next(paths));
    match found.find(|f| f.severity == Severity::Blocker) {
        Some(finding) => bail!("{}", finding.message),
        None => Ok(()),
    }
}

/// What stands in the way of a pin on this machine.
pub fn findings(paths: &Paths) -> Vec<Finding> {
    let mut found = match detect(paths) {
        Ok(loader) => loader.findings(),
        Err(_) if efi::hidden(paths) => vec![efi::hidden_finding()],
        Err(e) => vec![
            Finding::blocker("boot.loader", format!("the boot loader cannot be pinned: {e:#}"))
                .fix("boot this machine with GRUB or systemd-boot; after a kexec by hand, reboot once"),
        ],
    };
    found.extend(efi::boot_next(paths));
    found.extend(pinned(paths));
    found
}

/// What the last update has left, or one before it.
fn pinned(paths: &Paths) -> Option<Finding> {
    // A record that cannot be read has a finding of its own.
    let record = Record::load(&paths.record()).ok()??;
    let booted = of(record.pin_left()?, paths).and_then(|loader| loader.default_release()).ok().flatten();
    let kernel = booted.map_or("the kernel that it is pinned to".into(), |release| format!("kernel {release}"));
    let message = format!(
        "the boot loader boots {kernel} whatever else is installed, since an earlier update did not go well; the next \
         update that does ends that"
    );
    Some(Finding::warning("boot.pinned", message).fix("kup abort"))
}

/// A reset would not lead to the old kernel by itself.
fn waits(loader: &str) -> Finding {
    let message = format!("{loader} waits at its menu until somebody chooses: after a reset nothing boots by itself");
    Finding::warning("boot.waits", message)
}

/// The file's content; `None` where there is no file.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_booted_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let put = |path: &str, data: &[u8]| {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), data).unwrap();
        };
        let why = |paths| detect(paths).err().map(|e| e.to_string()).unwrap_or_default();
        put("/proc/cmdline", b"root=/dev/vda ro\n");
        assert!(why(&paths).contains("nor by GRUB"), "{}", why(&paths));
        put("/proc/cmdline", b"BOOT_IMAGE=/boot/vmlinuz-1 root=/dev/vda ro\n");
        assert!(why(&paths).contains("grub.cfg"), "{}", why(&paths));
        put("/boot/grub/grub.cfg", b"");
        assert!(why(&paths).contains("update-grub"), "{}", why(&paths));
        put("/usr/sbin/update-grub", b"");
        assert_eq!(detect(&paths).unwrap().name(), "grub");
        // Debian's grub-efi loads bli, which makes GRUB leave its own name.
        efi::testing::set(&paths, "LoaderInfo", Some("GRUB 2.12-9+deb13u1"));
        assert_eq!(detect(&paths).unwrap().name(), "grub");
        put("/proc/cmdline", b"root=/dev/vda ro\n");
        assert_eq!(detect(&paths).unwrap().name(), "grub", "whatever the command line of a kexec is");
        efi::testing::set(&paths, "LoaderInfo", Some("systemd-boot 257.13-1~deb13u1"));
        assert!(why(&paths).contains("package systemd-boot"), "{}", why(&paths));
        put("/usr/bin/bootctl", b"");
        assert_eq!(detect(&paths).unwrap().name(), "systemd-boot");
        for name in ["grub", "systemd-boot"] {
            let pin = Pin { loader: name.into(), entry: String::new(), before: None };
            assert_eq!(of(&pin, &paths).unwrap().name(), name, "whatever the machine was booted by");
        }
    }

    #[test]
    fn the_firmware_has_a_say() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let ids = |paths| findings(paths).into_iter().map(|f| f.id).collect::<Vec<_>>();
        assert_eq!(ids(&paths), ["boot.loader"]);
        fs::create_dir_all(paths.at("/sys/firmware/efi")).unwrap();
        assert_eq!(ids(&paths), ["boot.efivars"], "that may be systemd-boot");
        efi::testing::set_boot_next(&paths, 1);
        assert_eq!(ids(&paths), ["boot.loader", "boot.one-shot"]);
    }
}
