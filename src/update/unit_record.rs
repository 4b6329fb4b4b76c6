//! What the record says of one unit.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{ExpiredTimer, UnitState};
use crate::systemd::Start;
use crate::unit::Fallback;

/// One unit of an update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// Where it stands.
    pub state: UnitState,
    /// Its main process, the same before and after.
    pub main_pid: i32,
    /// Every process of it when it was frozen.
    pub pids: Vec<i32>,
    /// Its control group in the boot in which it was frozen, below /sys/fs/cgroup.
    #[serde(default)]
    pub cgroup: String,
    /// The kinds of namespace that are its own (`mnt`, `net`, …): CRIU runs inside them.
    pub namespaces: Vec<String>,
    /// Files that are open but not reachable from inside its sandbox.
    pub files: Vec<ExternalFile>,
    /// Inodes of its stream sockets to journald.
    pub streams: Vec<u64>,
    /// Directories on volatile file systems that are carried over.
    pub carried: Vec<Carried>,
    /// Mapped or open files that were replaced on disk: the process lives on with the old ones.
    pub outdated: Vec<String>,
    /// Whether its memory map refuses write-and-execute (PR_SET_MDWE), which CRIU does not bring back.
    #[serde(default)]
    pub mdwe: bool,
    /// CPUs that each thread may run on, such as `0-3`.
    #[serde(default)]
    pub cpus: BTreeMap<i32, String>,
    /// OOM score adjustments of processes, where they are not 0.
    #[serde(default)]
    pub oom: BTreeMap<i32, i32>,
    /// Timers that have to be armed again.
    #[serde(default)]
    pub timers: Vec<ExpiredTimer>,
    /// Digest of the manifest that lies beside the image; an image that does not match it is not restored.
    #[serde(default)]
    pub manifest: Option<String>,
    /// What the unit falls back on when the new kernel does not bring it back.
    #[serde(default)]
    pub fallback: Fallback,
    /// Has it sockets (TCP, UDP, …) in the machine's network, so that its restore waits for that?
    #[serde(default = "yes")]
    pub inet: bool,
    /// When its sandbox may be built; where a record does not tell, in the unit's turn.
    #[serde(default)]
    pub start: Option<Start>,
    /// How its memory was stored: in rounds while it ran, and the last time while it stood still.
    #[serde(default)]
    pub rounds: Vec<Round>,
}

/// What is so where a record does not tell.
fn yes() -> bool {
    true
}

/// What was stored of a unit's memory in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Bytes of pages.
    pub bytes: u64,
    /// How long it took until they were on their medium, microseconds.
    pub usec: u64,
}

impl Round {
    /// For what began at `begun` and ends now.
    pub fn since(begun: Instant, bytes: u64) -> Self {
        Self { bytes, usec: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX) }
    }

    /// How long it took, seconds; never nothing at all.
    pub fn seconds(&self) -> f64 {
        (self.usec as f64 / 1e6).max(1e-3)
    }
}

/// A file that CRIU is handed from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalFile {
    /// CRIU's key: `MNTID:INO`, both hexadecimal.
    pub key: String,
    /// Its path in the host's mount namespace.
    pub path: String,
    /// open(2) flags.
    pub flags: i32,
    /// Path of its copy in the unit's image directory, where the original is deleted.
    pub copy: Option<String>,
}

/// A directory or file whose content goes over the switch in an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The path as the unit's processes see it.
    pub path: String,
    /// Name of the archive in the unit's image directory.
    pub archive: String,
}
