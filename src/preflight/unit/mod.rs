//! Questions about one unit.

mod activated;
mod adjust;
mod deleted;
mod kind;
mod memory;
mod namespaces;
mod objects;
mod order;
mod sockets;
mod state;
mod tree;
mod unix;
mod volatile;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use state::NOT_RUNNING;

use super::Finding;
use crate::config::Settings;
use crate::inspect::{InspectError, Mounts, Process, UnitProcs, host};
use crate::paths::Paths;
use crate::unit::{self, PreserveSpec, UnitFile, UnitName};

/// What the questions need to know of the machine.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Highest PID of the kernel threads that every boot begins with.
    pub boot_threads: i32,
    /// Sockets of PID 1.
    pub pid1_sockets: BTreeSet<u64>,
    /// Mounts of PID 1.
    pub mounts: Mounts,
    /// Directories that every boot makes.
    pub tmpfiles: BTreeSet<PathBuf>,
    /// Largest deleted file that is carried over, in bytes.
    pub ghost_limit: u64,
    /// All units that are marked.
    pub marked: BTreeSet<UnitName>,
}

impl Host {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When the caller is not root, or /proc is not mounted.
    pub fn read(paths: &Paths, settings: &Settings) -> Result<Self, InspectError> {
        Ok(Self {
            boot_threads: host::boot_threads(paths)?,
            pid1_sockets: host::pid1_sockets(paths)?,
            mounts: host::mounts(paths)?,
            tmpfiles: host::tmpfiles(paths),
            ghost_limit: settings.ghost_limit_bytes().into(),
            marked: unit::scan(paths).units.into_iter().map(|(file, _)| file.name).collect(),
        })
    }
}

/// What a question looks at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The unit's files.
    pub unit: &'a UnitFile,
    /// What they ask of kup.
    pub spec: &'a PreserveSpec,
    /// The unit as it runs.
    pub procs: &'a UnitProcs,
    /// The machine.
    pub host: &'a Host,
}

impl View<'_> {
    fn name(&self) -> &str {
        self.unit.name.as_str()
    }

    /// The last value of a key of `[Service]`, or empty.
    fn service(&self, key: &str) -> &str {
        self.unit.get("Service", key).map_or("", |v| v.as_str())
    }

    fn restart(&self) -> String {
        format!("systemctl restart {}", self.name())
    }
}

type Question = fn(&View) -> Vec<Finding>;

/// Asked of every unit that runs.
const QUESTIONS: [Question; 12] = [
    kind::ask,
    order::ask,
    adjust::ask,
    namespaces::ask,
    tree::ask,
    volatile::ask,
    deleted::ask,
    objects::ask,
    unix::ask,
    sockets::ask,
    activated::ask,
    memory::ask,
];

/// Asks every question.
pub fn check(view: &View) -> Vec<Finding> {
    match state::ask(view) {
        Some(finding) => vec![finding],
        None => QUESTIONS.iter().flat_map(|question| question(view)).collect(),
    }
}

/// `redis-server[812]`.
fn label(process: &Process) -> String {
    format!("{}[{}]", process.comm, process.pid)
}

#[cfg(test)]
mod made_up;
