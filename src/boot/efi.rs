//! EFI variables, as efivarfs shows them: one file per variable, four bytes of attributes before its value
//! (Documentation/filesystems/efivarfs.rst of the kernel).

use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::inspect::Mounts;
use crate::paths::Paths;
use crate::preflight::Finding;

/// Where efivarfs is mounted.
const DIRECTORY: &str = "/sys/firmware/efi/efivars";
/// Vendor id of the Boot Loader Interface (systemd.io/BOOT_LOADER_INTERFACE).
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Vendor id of the firmware's own variables (UEFI specification, 3.3).
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The value is no string of the Boot Loader Interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it holds no UTF-16 string")]
pub struct BadString;

/// The string in `value`: UTF-16, little endian, up to its NUL (some writers leave that out).
///
/// # Errors
/// [`BadString`].
pub fn decode(value: &[u8]) -> Result<String, BadString> {
    let (pairs, rest) = value.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(BadString);
    }
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).collect::<Result<_, _>>().map_err(|_| BadString)
}

/// The value of a variable without its attributes; `None` where it is not set.
fn read(paths: &Paths, name: &str, vendor: &str) -> Result<Option<Vec<u8>>> {
    let path = paths.at(DIRECTORY).join(format!("{name}-{vendor}"));
    match fs::read(&path) {
        Ok(bytes) => Ok(bytes.get(4..).map(<[u8]>::to_vec)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read the EFI variable {}", path.display())),
    }
}

/// A string of the Boot Loader Interface. Empty is the same as not set: it names no entry.
///
/// # Errors
/// When it cannot be read or is no string.
pub fn loader(paths: &Paths, name: &str) -> Result<Option<String>> {
    let Some(value) = read(paths, name, LOADER)? else { return Ok(None) };
    let text = decode(&value).with_context(|| format!("cannot understand the EFI variable {name}"))?;
    Ok(Some(text).filter(|t| !t.is_empty()))
}

/// What the boot loader says it can do: LoaderFeatures, 0 where it says nothing.
pub fn loader_features(paths: &Paths) -> u64 {
    let value = read(paths, "LoaderFeatures", LOADER).ok().flatten();
    value.and_then(|v| v.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Whether the machine was booted by UEFI firmware and its variables cannot be seen.
pub fn hidden(paths: &Paths) -> bool {
    let shown = fs::read_dir(paths.at(DIRECTORY)).is_ok_and(|mut entries| entries.next().is_some());
    paths.at("/sys/firmware/efi").is_dir() && !shown
}

/// The finding for [`hidden`] variables.
pub fn hidden_finding() -> Finding {
    let message = "this machine was booted by UEFI firmware, but its variables cannot be seen, so that its boot loader \
                   cannot be told or pinned";
    Finding::blocker("boot.efivars", message).fix(format!(
        "mount -t efivarfs efivarfs {DIRECTORY}; real-time kernels need efi=runtime on their command line"
    ))
}

/// A blocker where variables can be read only.
pub fn read_only(paths: &Paths) -> Option<Finding> {
    let mounts = Mounts::parse(&fs::read_to_string(paths.at("/proc/self/mountinfo")).unwrap_or_default());
    let mount = mounts.of_path(&PathBuf::from(DIRECTORY))?;
    (mount.fs_type == "efivarfs" && mount.read_only).then(|| {
        let message = format!("{DIRECTORY} is mounted read-only, so that the boot loader's default cannot be changed");
        Finding::blocker("boot.efivars", message).fix(format!("mount -o remount,rw {DIRECTORY}"))
    })
}

/// The firmware itself can be told to boot something else once, ahead of any boot loader.
pub fn boot_next(paths: &Paths) -> Option<Finding> {
    let value = read(paths, "BootNext", GLOBAL).ok().flatten()?;
    let number = value.first_chunk().map(|n| u16::from_le_bytes(*n)).unwrap_or_default();
    let message =
        format!("the firmware is told to boot its entry Boot{number:04X} once, whatever the boot loader's default is");
    Some(Finding::blocker("boot.one-shot", message).fix("efibootmgr --delete-bootnext"))
}

#[cfg(test)]
pub mod testing {
    //! Variables below a temporary root.

    use super::*;

    /// As efivarfs has it.
    pub fn encode(text: &str) -> Vec<u8> {
        let value = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        [7, 0, 0, 0].into_iter().chain(value).collect()
    }

    /// Sets a variable of the Boot Loader Interface, or removes it.
    pub fn set(paths: &Paths, name: &str, value: Option<&str>) {
        let path = paths.at(DIRECTORY).join(format!("{name}-{LOADER}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match value {
            Some(value) => fs::write(path, encode(value)).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// Sets one with a value that is no string.
    pub fn set_raw(paths: &Paths, name: &str, value: &[u8]) {
        set(paths, name, Some(""));
        fs::write(paths.at(DIRECTORY).join(format!("{name}-{LOADER}")), value).unwrap();
    }

    /// Tells the firmware to boot something once.
    pub fn set_boot_next(paths: &Paths, number: u16) {
        let path = paths.at(DIRECTORY).join(format!("BootNext-{GLOBAL}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [&[7, 0, 0, 0], number.to_le_bytes().as_slice()].concat()).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        (dir, paths)
    }

    #[test]
    fn variables() {
        let (_dir, paths) = tree();
        assert!(!hidden(&paths), "no UEFI");
        fs::create_dir_all(paths.at(DIRECTORY)).unwrap();
        assert!(hidden(&paths), "not mounted");
        assert_eq!(loader(&paths, "LoaderInfo").unwrap(), None);
        testing::set(&paths, "LoaderInfo", Some("systemd-boot 257.13-1~deb13u1"));
        assert!(!hidden(&paths));
        assert_eq!(loader(&paths, "LoaderInfo").unwrap().as_deref(), Some("systemd-boot 257.13-1~deb13u1"));
        testing::set(&paths, "LoaderInfo", Some(""));
        assert_eq!(loader(&paths, "LoaderInfo").unwrap(), None);
        testing::set_raw(&paths, "LoaderInfo", b"\x07\0\0\0a\0b");
        assert!(loader(&paths, "LoaderInfo").is_err());
        testing::set_raw(&paths, "LoaderInfo", b"");
        assert_eq!(loader(&paths, "LoaderInfo").unwrap(), None);
        assert_eq!(loader_features(&paths), 0);
        testing::set_raw(&paths, "LoaderFeatures", &[6, 0, 0, 0, 0xff, 0x7f, 0, 0, 0, 0, 0, 0]);
        assert_eq!(loader_features(&paths), 0x7fff);
    }

    #[test]
    fn what_stands_in_the_way() {
        let (_dir, paths) = tree();
        assert_eq!((boot_next(&paths), read_only(&paths)), (None, None));
        testing::set_boot_next(&paths, 0x2a);
        assert!(boot_next(&paths).unwrap().message.contains("Boot002A"));
        fs::create_dir_all(paths.at("/proc/self")).unwrap();
        for (options, blocked) in [("rw,nosuid", false), ("ro,nosuid", true)] {
            let line = format!("30 24 0:27 / {DIRECTORY} {options} shared:9 - efivarfs efivarfs rw\n");
            fs::write(paths.at("/proc/self/mountinfo"), line).unwrap();
            assert_eq!(read_only(&paths).is_some(), blocked, "{options}");
        }
    }

    proptest! {
        #[test]
        fn strings_come_back(text in "[^\0]{0,20}") {
            let encoded = testing::encode(&text);
            prop_assert_eq!(decode(&encoded[4..]), Ok(text.clone()));
            prop_assert_eq!(decode(&encoded[4..encoded.len() - 2]), Ok(text), "without the NUL");
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }
}
