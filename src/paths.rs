//! Every path that kup reads or writes, relative to one root.
//!
//! Production code uses [`Paths::host`]; tests put the same tree below a temporary directory.

use std::path::{Path, PathBuf};

/// The file system as kup sees it.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The running machine.
    pub fn host() -> Self {
        Self { root: "/".into() }
    }

    /// A tree below `root`, for tests and for the generator's golden trees.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `path`, an absolute path, below this root.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The record of the update that is under way or was the last one. It lies in /etc because generators may rely on
    /// nothing but the root file system (systemd.generator(7)), and /var may be a file system of its own.
    pub fn record(&self) -> PathBuf {
        self.at("/etc/kup/record.json")
    }

    /// Held (flock) by whoever changes the record.
    pub fn lock(&self) -> PathBuf {
        self.at("/run/kup/lock")
    }

    /// The kernel that the package hook remembered as the next target.
    pub fn staged(&self) -> PathBuf {
        self.at("/var/lib/kup/staged.json")
    }

    /// Stamps that the hook leaves when kupd does not answer, one file per kernel release.
    pub fn pending_hooks(&self) -> PathBuf {
        self.at("/var/lib/kup/pending")
    }

    /// One JSON line per finished update.
    pub fn history(&self) -> PathBuf {
        self.at("/var/lib/kup/history.jsonl")
    }

    /// What outlives a boot, beside the record; root-only.
    pub fn state_dir(&self) -> PathBuf {
        self.at("/var/lib/kup")
    }

    /// Checkpoints of one update; root-only.
    pub fn images(&self, id: &str) -> PathBuf {
        self.images_root().join(id)
    }

    /// Is there a program `name` for the administration of the system?
    pub fn has_tool(&self, name: &str) -> bool {
        ["/sbin", "/usr/sbin"].iter().any(|dir| self.at(dir).join(name).exists())
    }

    /// The parent of all updates' images.
    pub fn images_root(&self) -> PathBuf {
        self.state_dir().join("images")
    }

    /// What kupd asks of kup-worker, and what kup-worker answers; root-only, gone at boot.
    pub fn run_dir(&self) -> PathBuf {
        self.at("/run/kup")
    }

    /// What weight a unit had before it was let go before all others; there until it has that again.
    pub fn weight(&self, unit: &str) -> PathBuf {
        self.run_dir().join("weights").join(unit)
    }

    /// Vendor and administrator settings, merged in this order (later wins), each followed by its `kup.toml.d/*.toml`.
    pub fn config_files(&self) -> [PathBuf; 3] {
        [self.at("/usr/lib/kup/kup.toml"), self.at("/etc/kup/kup.toml"), self.at("/run/kup/kup.toml")]
    }

    /// Kernel command line of this boot.
    pub fn cmdline(&self) -> PathBuf {
        self.at("/proc/cmdline")
    }
}
