//! Boot loaders: while an update is under way, the one that a reset would go through must boot the old kernel.

mod command;
pub(crate) mod grub;

use std::fs;

use anyhow::{Result, bail};

pub use grub::Grub;

use crate::paths::Paths;
use crate::preflight::Finding;
use crate::update::Pin;

/// A boot loader, as far as an update needs one.
pub trait BootLoader {
    /// The word that [`Pin::loader`] holds.
    fn name(&self) -> &'static str;

    /// Makes `release` (the running kernel's) what boots by default, whatever is installed meanwhile. Synced.
    ///
    /// # Errors
    /// When it cannot be made so, or was not so when looked at again; everything is then as it was.
    fn pin(&self, release: &str) -> Result<Pin>;

    /// Puts back what was there before the pin. Doing it twice is fine.
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

/// systemd-boot (and GRUB with its bli module) leave their name here; the vendor id is the Boot Loader Interface's.
const LOADER_INFO: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The boot loader that this machine was booted by.
///
/// # Errors
/// When it is one that kup cannot pin.
pub fn detect(paths: &Paths) -> Result<Box<dyn BootLoader>> {
    let info = loader_info(&fs::read(paths.at(LOADER_INFO)).unwrap_or_default());
    if info.starts_with("systemd-boot") {
        bail!("this machine was booted by {info}; kup pins only GRUB so far, systemd-boot is not supported yet");
    }
    let cmdline = fs::read_to_string(paths.cmdline()).unwrap_or_default();
    if !crate::kernel::cmdline::split(&cmdline).iter().any(|w| w.starts_with("BOOT_IMAGE=")) {
        bail!(
            "this machine was not booted by GRUB (no BOOT_IMAGE= in /proc/cmdline), and kup can pin no other boot loader"
        );
    }
    Ok(Box::new(Grub::new(paths)?))
}

/// Four bytes of attributes, then UTF-16 with a NUL (Boot Loader Interface).
fn loader_info(variable: &[u8]) -> String {
    let units = variable.get(4..).unwrap_or_default().chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
    char::decode_utf16(units.take_while(|u| *u != 0)).map(|c| c.unwrap_or('?')).collect()
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
        assert!(why(&paths).contains("not booted by GRUB"), "{}", why(&paths));
        put("/proc/cmdline", b"BOOT_IMAGE=/boot/vmlinuz-1 root=/dev/vda ro\n");
        assert!(why(&paths).contains("grub.cfg"), "{}", why(&paths));
        put("/boot/grub/grub.cfg", b"");
        assert!(why(&paths).contains("update-grub"), "{}", why(&paths));
        put("/usr/sbin/update-grub", b"");
        assert_eq!(detect(&paths).unwrap().name(), "grub");
        let name: Vec<u8> = "systemd-boot 257\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        put(LOADER_INFO, &[&[6, 0, 0, 0], name.as_slice()].concat());
        assert!(why(&paths).contains("systemd-boot 257"), "{}", why(&paths));
    }
}
