//! The processes of a control group.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{InspectError, read_text};
use crate::paths::Paths;

/// The processes of `group` (as systemd names it, such as `/system.slice/a.service`) and of all groups below it, each
/// with the group's path relative to `group`; none when the group is gone.
pub fn processes(paths: &Paths, group: &str) -> Result<BTreeMap<i32, PathBuf>, InspectError> {
    let root = paths.at("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let mut found = BTreeMap::new();
    walk(&root, Path::new(""), &mut found)?;
    Ok(found)
}

fn walk(root: &Path, below: &Path, found: &mut BTreeMap<i32, PathBuf>) -> Result<(), InspectError> {
    let dir = root.join(below);
    match read_text(&dir.join("cgroup.procs")) {
        Ok(text) => {
            // 0 stands for a process of another PID namespace that is no descendant of ours: not a child to look at.
            let pids = text.lines().filter_map(|l| l.trim().parse().ok()).filter(|pid| *pid != 0);
            found.extend(pids.map(|pid| (pid, below.to_path_buf())));
        }
        Err(e) if e.is_gone() => return Ok(()),
        // cgroups(7): a threaded group does not list its processes; they are listed in the group above.
        Err(InspectError::Read { cause, .. }) if cause.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(InspectError::read(&dir))?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(root, &below.join(entry.file_name()), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtree() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("sys/fs/cgroup/system.slice/a.service");
        fs::create_dir_all(group.join("workers/one")).unwrap();
        fs::write(group.join("cgroup.procs"), "12\n0\n").unwrap();
        fs::write(group.join("workers/cgroup.procs"), "").unwrap();
        fs::write(group.join("workers/one/cgroup.procs"), "14\n13\n").unwrap();
        let paths = Paths::below(dir.path());
        let found: Vec<_> = processes(&paths, "/system.slice/a.service").unwrap().into_iter().collect();
        assert_eq!(found, [(12, "".into()), (13, "workers/one".into()), (14, "workers/one".into())]);
        assert!(processes(&paths, "/system.slice/gone.service").unwrap().is_empty());
    }
}
