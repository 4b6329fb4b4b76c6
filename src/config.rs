//! Settings: `kup.toml`.
//!
//! Vendor, administrator and run-time files are merged key by key in the order of [`Paths::config_files`], each with
//! the files of its `kup.toml.d/` behind it; what is read later wins. No file at all is fine: every key has a default.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kernel::cmdline;
use crate::paths::Paths;
use crate::unit::{Fallback, Storage};

/// Who starts an update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The administrator, with `kup update`.
    #[default]
    Manual,
    /// The installation of a new kernel, once the package manager is done.
    Automatic,
}

impl Mode {
    /// As it is written behind `Mode =`.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Manual => "manual",
            Mode::Automatic => "automatic",
        }
    }
}

/// What the target kernel begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initrd {
    /// One with what this machine needs, where it can be built.
    #[default]
    Small,
    /// The distribution's.
    Stock,
}

/// The merged settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `Mode`: who starts an update. Default `"manual"`.
    pub mode: Mode,
    /// `RestoreTimeoutSec`: how long all units together may take to be restored, in seconds. Default 120.
    pub restore_timeout_sec: u64,
    /// `AddressTimeoutSec`: how long restore waits for the addresses that sockets are bound to, in seconds. Default 30.
    pub address_timeout_sec: u64,
    /// `HealthTimeoutSec`: how long one health check may take, in seconds. Default 60.
    pub health_timeout_sec: u64,
    /// `DeadmanSec`: how long it may take from the checkpoint until the new kernel is blessed, in seconds, before a hardware
    /// watchdog resets the machine. Default 300; 0 is never.
    pub deadman_sec: u32,
    /// `LockTimeoutSec`: how long an automatic update waits for the package manager's locks, in seconds. Default 600.
    pub lock_timeout_sec: u64,
    /// `GhostLimitMiB`: the largest deleted file that is carried over, in MiB. Default 512, at most 4095.
    pub ghost_limit_mib: u32,
    /// `MaxImageMiB`: what all images together may take on disk, in MiB. No limit but the free space by default.
    pub max_image_mib: Option<u64>,
    /// `Fallback`: what units fall back on that do not say it themselves (`KUPFallback=`). Default `"disk"`.
    pub fallback: Fallback,
    /// `Storage`: where memory is kept over the switch, of units that do not say it themselves (`KUPStorage=`). Default
    /// `"disk"`.
    pub storage: Storage,
    /// `BootTimeoutSec`: how long the new boot may take from its first unit to the end of the assessment before kup goes
    /// back, in seconds. Default 240.
    pub boot_timeout_sec: u64,
    /// `Encryption`: are images encrypted with a key that goes to the new kernel in memory? Default false.
    pub encryption: bool,
    /// `Initrd`: what the target kernel begins with. Default `"small"`.
    pub initrd: Initrd,
    /// `KernelArguments`: words that are added to the target kernel's command line, separated by spaces. Default `""`.
    pub kernel_arguments: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Manual,
            restore_timeout_sec: 120,
            address_timeout_sec: 30,
            health_timeout_sec: 60,
            deadman_sec: 300,
            lock_timeout_sec: 600,
            ghost_limit_mib: 512,
            max_image_mib: None,
            fallback: Fallback::Disk,
            storage: Storage::Disk,
            boot_timeout_sec: 240,
            encryption: false,
            initrd: Initrd::Small,
            kernel_arguments: String::new(),
        }
    }
}

/// Why the settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory is there and cannot be read.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type. The message shows the line.
    #[error("{path}: {cause}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        cause: Box<toml::de::Error>,
    },
    /// A value that the key does not take.
    #[error("{path}: {key} {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong with the value.
        problem: &'static str,
    },
}

/// One file: any of the keys.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Fragment {
    mode: Option<Mode>,
    restore_timeout_sec: Option<u64>,
    address_timeout_sec: Option<u64>,
    health_timeout_sec: Option<u64>,
    deadman_sec: Option<u32>,
    lock_timeout_sec: Option<u64>,
    #[serde(rename = "GhostLimitMiB")]
    ghost_limit_mib: Option<u32>,
    #[serde(rename = "MaxImageMiB")]
    max_image_mib: Option<u64>,
    fallback: Option<Fallback>,
    storage: Option<Storage>,
    boot_timeout_sec: Option<u64>,
    encryption: Option<bool>,
    initrd: Option<Initrd>,
    kernel_arguments: Option<String>,
}

impl Settings {
    /// Reads and merges all files.
    ///
    /// # Errors
    /// The first file that cannot be read or understood, with the key.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for file in paths.config_files() {
            for file in std::iter::once(file.clone()).chain(dropins(&file)?) {
                match fs::read_to_string(&file) {
                    Ok(text) => settings.overlay(&text, &file)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(cause) => return Err(ConfigError::Io { path: file, cause }),
                }
            }
        }
        Ok(settings)
    }

    /// Merges the text of one file, `path`, over what was read before.
    ///
    /// # Errors
    /// What cannot be understood; nothing is merged then.
    pub fn overlay(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        self.merge(Fragment::parse(text, path)?);
        Ok(())
    }

    /// [`Settings::ghost_limit_mib`] in bytes, as CRIU takes it.
    pub fn ghost_limit_bytes(&self) -> u32 {
        self.ghost_limit_mib.saturating_mul(1 << 20)
    }

    fn merge(&mut self, from: Fragment) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(from) = from {
                *to = from;
            }
        }
        set(&mut self.mode, from.mode);
        set(&mut self.restore_timeout_sec, from.restore_timeout_sec);
        set(&mut self.address_timeout_sec, from.address_timeout_sec);
        set(&mut self.health_timeout_sec, from.health_timeout_sec);
        set(&mut self.deadman_sec, from.deadman_sec);
        set(&mut self.lock_timeout_sec, from.lock_timeout_sec);
        set(&mut self.ghost_limit_mib, from.ghost_limit_mib);
        set(&mut self.max_image_mib, from.max_image_mib.map(Some));
        set(&mut self.fallback, from.fallback);
        set(&mut self.storage, from.storage);
        set(&mut self.boot_timeout_sec, from.boot_timeout_sec);
        set(&mut self.encryption, from.encryption);
        set(&mut self.initrd, from.initrd);
        set(&mut self.kernel_arguments, from.kernel_arguments);
    }
}

impl Fragment {
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let fragment: Self =
            toml::from_str(text).map_err(|cause| ConfigError::Syntax { path: path.into(), cause: Box::new(cause) })?;
        let bad = |key, problem| Err(ConfigError::Value { path: path.into(), key, problem });
        let timeouts = [
            ("RestoreTimeoutSec", fragment.restore_timeout_sec),
            ("AddressTimeoutSec", fragment.address_timeout_sec),
            ("HealthTimeoutSec", fragment.health_timeout_sec),
            ("DeadmanSec", fragment.deadman_sec.map(Into::into)),
            ("LockTimeoutSec", fragment.lock_timeout_sec),
            ("BootTimeoutSec", fragment.boot_timeout_sec),
        ];
        // A day: longer waits are a unit of measurement that was mistaken.
        if let Some((key, _)) = timeouts.iter().find(|(_, sec)| sec.is_some_and(|s| s > 86400)) {
            return bad(key, "must be at most 86400 (seconds)");
        }
        if let Some(("RestoreTimeoutSec", Some(0))) = timeouts.first() {
            return bad("RestoreTimeoutSec", "must not be 0: nothing would be restored");
        }
        if fragment.boot_timeout_sec == Some(0) {
            return bad("BootTimeoutSec", "must not be 0: no new kernel would be kept");
        }
        // No machine shuts down, boots and restores in less, so each update would end in a reset.
        if fragment.deadman_sec.is_some_and(|sec| (1..30).contains(&sec)) {
            return bad("DeadmanSec", "must be 0 (off) or at least 30 (seconds)");
        }
        // CRIU takes the limit as 32 bits of bytes.
        if fragment.ghost_limit_mib.is_some_and(|mib| mib > 4095) {
            return bad("GhostLimitMiB", "must be at most 4095");
        }
        match fragment.kernel_arguments.as_deref().map(cmdline::extra) {
            Some(Err(problem)) => bad("KernelArguments", problem),
            _ => Ok(fragment),
        }
    }
}

/// The `*.toml` files in `FILE.d/`, by name.
fn dropins(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = file.with_extension("toml.d");
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let entries = entries.map_err(|cause| ConfigError::Io { path: dir, cause })?;
    let mut files: Vec<_> = entries.into_iter().map(|e| e.path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for (path, text) in files {
            let path = paths.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Settings::load(&paths).map_err(|e| e.to_string())
    }

    #[test]
    fn later_files_win_key_by_key() {
        assert_eq!(load(&[]), Ok(Settings::default()));
        let settings = load(&[
            ("/usr/lib/kup/kup.toml", "Mode = \"automatic\"\nLockTimeoutSec = 1\nGhostLimitMiB = 4095\n"),
            ("/usr/lib/kup/kup.toml.d/90.toml", "LockTimeoutSec = 2\nHealthTimeoutSec = 2\nDeadmanSec = 0\n"),
            ("/etc/kup/kup.toml", "LockTimeoutSec = 3\nMaxImageMiB = 64\n"),
            ("/etc/kup/kup.toml.d/20.toml", "AddressTimeoutSec = 20\n"),
            ("/etc/kup/kup.toml.d/10.toml", "AddressTimeoutSec = 10\nKernelArguments = \"quiet panic=5\"\n"),
            ("/etc/kup/kup.toml.d/30.toml.bak", "AddressTimeoutSec = 30\n"),
            (
                "/run/kup/kup.toml",
                "RestoreTimeoutSec = 7\nFallback = \"none\"\nStorage = \"auto\"\nBootTimeoutSec = 9\nEncryption = true\nInitrd = \"stock\"\n",
            ),
        ]);
        let want = Settings {
            mode: Mode::Automatic,
            restore_timeout_sec: 7,
            address_timeout_sec: 20,
            health_timeout_sec: 2,
            deadman_sec: 0,
            lock_timeout_sec: 3,
            ghost_limit_mib: 4095,
            max_image_mib: Some(64),
            kernel_arguments: "quiet panic=5".into(),
            fallback: Fallback::None,
            storage: Storage::Auto,
            boot_timeout_sec: 9,
            encryption: true,
            initrd: Initrd::Stock,
        };
        assert_eq!(want.ghost_limit_bytes(), 4095 << 20);
        assert_eq!(settings, Ok(want));
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, want) in [
            ("Mode = \"auto\"", "Mode"),
            ("RestoreTimeoutSeconds = 3", "RestoreTimeoutSeconds"),
            ("HealthTimeoutSec = \"3s\"", "HealthTimeoutSec"),
            ("LockTimeoutSec = -1", "LockTimeoutSec"),
            ("LockTimeoutSec = 86401", "LockTimeoutSec"),
            ("RestoreTimeoutSec = 0", "RestoreTimeoutSec"),
            ("DeadmanSec = 29", "DeadmanSec"),
            ("DeadmanSec = 86401", "DeadmanSec"),
            ("GhostLimitMiB = 4096", "GhostLimitMiB"),
            ("BootTimeoutSec = 0", "BootTimeoutSec"),
            ("Fallback = \"ram\"", "ram"),
            ("Initrd = \"tiny\"", "tiny"),
            ("Storage = \"tape\"", "tape"),
            ("KernelArguments = \"a\\nb\"", "KernelArguments"),
            ("KernelArguments = \"a -- b\"", "KernelArguments"),
            ("Mode = ", "Mode"),
        ] {
            let error = load(&[("/etc/kup/kup.toml.d/x.toml", text)]).unwrap_err();
            assert!(error.contains("/etc/kup/kup.toml.d/x.toml") && error.contains(want), "{text}: {error}");
        }
    }
}
