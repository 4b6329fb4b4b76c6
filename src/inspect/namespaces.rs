//! The namespaces of a process, namespaces(7).

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::InspectError;
use crate::paths::Paths;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Mounts.
    Mnt,
    /// Host name.
    Uts,
    /// SysV IPC and POSIX message queues.
    Ipc,
    /// Network.
    Net,
    /// Process ids.
    Pid,
    /// User ids and capabilities.
    User,
    /// Control group root.
    Cgroup,
    /// Offsets of the monotonic clocks.
    Time,
}

impl Namespace {
    /// Every kind.
    pub const ALL: [Self; 8] =
        [Self::Mnt, Self::Uts, Self::Ipc, Self::Net, Self::Pid, Self::User, Self::Cgroup, Self::Time];

    /// Its name in /proc/PID/ns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mnt => "mnt",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Net => "net",
            Self::Pid => "pid",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// The namespaces of `pid`, as /proc/PID/ns names them; kinds that this kernel does not have are absent.
    pub(super) fn of(paths: &Paths, pid: i32) -> Result<BTreeMap<Self, String>, InspectError> {
        let mut found = BTreeMap::new();
        let dir = paths.at(format!("/proc/{pid}/ns"));
        // A missing directory means that the process is gone, a missing entry that the kernel lacks the kind.
        std::fs::metadata(&dir).map_err(InspectError::read(&dir))?;
        for kind in Self::ALL {
            let path = dir.join(kind.as_str());
            match std::fs::read_link(&path) {
                Ok(link) => {
                    found.insert(kind, link.to_string_lossy().into_owned());
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(InspectError::read(&path)(e)),
            }
        }
        Ok(found)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_links() {
        let dir = tempfile::tempdir().unwrap();
        let ns = dir.path().join("proc/7/ns");
        std::fs::create_dir_all(&ns).unwrap();
        std::os::unix::fs::symlink("mnt:[4026531841]", ns.join("mnt")).unwrap();
        let found = Namespace::of(&Paths::below(dir.path()), 7).unwrap();
        assert_eq!(found, BTreeMap::from([(Namespace::Mnt, "mnt:[4026531841]".into())]));
        assert!(Namespace::of(&Paths::below(dir.path()), 8).unwrap_err().is_gone());
    }
}
