//! What a panic does while the new kernel is on trial: it must end in the old one, not in a machine that stands still.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// Seconds from a panic to the reset: long enough for the last lines to reach a serial or network console.
const PANIC_SECONDS: i32 = 10;
const PANIC: &str = "/proc/sys/kernel/panic";
const OOPS: &str = "/proc/sys/kernel/panic_on_oops";

/// Words for the target's command line, so that a panic of the new kernel resets the machine, and an oops is one; none for
/// what `given` says already: [`super::cmdline::own`] of the running command line, and `KernelArguments`.
///
/// An oops leaves locks held and data half written, and while there is a way back that is no kernel to restore services on.
/// Panics on other signs of trouble (softlockup_panic, hung_task_panic, nmi_watchdog=panic, panic_on_warn) are left as they
/// are: a starved virtual machine or a slow disk gives such signs on a good kernel, too, and the restore makes a lot of load.
pub fn words<'a>(given: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let given: Vec<&str> = given.into_iter().collect();
    let says = |key: &str| given.iter().any(|w| w.starts_with(key));
    let ours = [("panic=", PANIC_SECONDS.to_string()), ("oops=", "panic".into())];
    ours.into_iter().filter(|(key, _)| !says(key)).map(|(key, value)| format!("{key}{value}")).collect()
}

/// Seconds from a panic of the target to the reset, with what [`words`] adds to what is `given`.
///
/// # Errors
/// The word for which it stands still instead. Of several the last one counts, and the kernel takes those of sysctl after all
/// others.
pub fn resets_after<'a>(given: impl IntoIterator<Item = &'a str>) -> Result<u32, &'a str> {
    let value = |word: &'a str| {
        let late = word.strip_prefix("sysctl.kernel.");
        Some((late.is_some(), word, late.unwrap_or(word).strip_prefix("panic=")?))
    };
    let Some((_, word, value)) = given.into_iter().filter_map(value).max_by_key(|(late, ..)| *late) else {
        return Ok(PANIC_SECONDS.unsigned_abs());
    };
    match value.parse::<i32>() {
        // What it does not understand leaves it as it was built, and that is to stand still.
        Ok(0) | Err(_) => Err(word),
        Ok(seconds) => Ok(seconds.max(0).unsigned_abs()),
    }
}

/// The old kernel's settings, for the new one once it is blessed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanicSettings {
    /// sysctl kernel.panic: seconds from a panic to the reset; 0 is never, less is at once.
    pub panic: i32,
    /// sysctl kernel.panic_on_oops: whether an oops is a panic.
    pub panic_on_oops: i32,
}

/// A setting cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct PanicError {
    /// Its file.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

impl PanicSettings {
    /// What is in force.
    ///
    /// # Errors
    /// When a setting cannot be read.
    pub fn read(paths: &Paths) -> Result<Self, PanicError> {
        Ok(Self { panic: read(paths, PANIC)?, panic_on_oops: read(paths, OOPS)? })
    }

    /// Puts these settings in force, where what is in force are the values of [`words`]. Others come from sysctl.d of the new
    /// boot, and stay.
    ///
    /// # Errors
    /// When a setting cannot be read or written.
    pub fn put_back(&self, paths: &Paths) -> Result<(), PanicError> {
        for (file, trial, value) in [(PANIC, PANIC_SECONDS, self.panic), (OOPS, 1, self.panic_on_oops)] {
            if read(paths, file)? == trial && value != trial {
                let path = paths.at(file);
                fs::write(&path, format!("{value}\n")).map_err(|cause| PanicError { path, cause })?;
            }
        }
        Ok(())
    }
}

fn read(paths: &Paths, file: &str) -> Result<i32, PanicError> {
    let path = paths.at(file);
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let value = fs::read_to_string(&path).and_then(|text| text.trim().parse().map_err(invalid));
    value.map_err(|cause| PanicError { path, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_already_is_not_said_again() {
        assert_eq!(words(["ro", "panic_on_warn=0"]), ["panic=10", "oops=panic"]);
        assert_eq!(words(["panic=-1", "ro"]), ["oops=panic"]);
        assert!(words(["oops=panic", "panic=10"]).is_empty());
    }

    #[test]
    fn what_a_panic_does() {
        assert_eq!(resets_after(["ro", "panic_on_warn=0"]), Ok(10));
        assert_eq!(resets_after(["panic=0", "panic=-1"]), Ok(0), "at once");
        assert_eq!(resets_after(["panic=30", "ro", "panic=0"]), Err("panic=0"));
        assert_eq!(resets_after(["panic=x"]), Err("panic=x"));
        assert_eq!(resets_after(["sysctl.kernel.panic=0", "panic=5"]), Err("sysctl.kernel.panic=0"));
    }

    #[test]
    fn only_our_own_values_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let set = |panic: &str, oops: &str| {
            fs::create_dir_all(paths.at("/proc/sys/kernel")).unwrap();
            fs::write(paths.at(PANIC), panic).unwrap();
            fs::write(paths.at(OOPS), oops).unwrap();
        };
        assert!(PanicSettings::read(&paths).unwrap_err().to_string().contains("kernel/panic"));
        set("0\n", "0\n");
        let old = PanicSettings::read(&paths).unwrap();
        assert_eq!(old, PanicSettings::default());
        set("10\n", "1\n");
        old.put_back(&paths).unwrap();
        assert_eq!(PanicSettings::read(&paths).unwrap(), old);
        set("30\n", "1\n");
        old.put_back(&paths).unwrap();
        assert_eq!(PanicSettings::read(&paths).unwrap(), PanicSettings { panic: 30, panic_on_oops: 0 });
        let strict = PanicSettings { panic: 10, panic_on_oops: 1 };
        set("10\n", "1\n");
        strict.put_back(&paths).unwrap();
        assert_eq!(PanicSettings::read(&paths).unwrap(), strict);
    }
}
