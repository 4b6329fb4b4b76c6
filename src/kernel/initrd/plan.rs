//! What an initrd of ours is to do, as whoever builds it writes it down for [`init`](super::init).

use serde::{Deserialize, Serialize};

use super::root::Root;

/// Where it lies in the initrd.
pub const PLAN: &str = "/kup/plan.json";

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the root file system needs, in the order in which it is loaded.
    pub modules: Vec<Module>,
    /// The root file system.
    pub root: Root,
    /// Names of modules that others wait for, but not the root file system: loaded from there, beside systemd's start.
    pub later: Vec<String>,
    /// Is the root file system mounted for writing at once, where fsck(8) has nothing to do?
    pub writable: bool,
    /// Is /run mounted here?
    pub run: bool,
    /// What is removed in the end, as nobody can get at it any more, and it would stay in memory.
    pub top: Vec<String>,
}

/// A module that lies in the initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Where.
    pub file: String,
    /// Its parameters.
    pub options: String,
}
