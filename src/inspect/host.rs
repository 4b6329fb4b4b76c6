//! What is asked of the machine as a whole: PID 1's sockets and mounts, the kernel's threads, tmpfiles.d.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{InspectError, Mounts, process, read_text};
use crate::paths::Paths;

/// Inodes of the sockets that PID 1 holds: what it listens on for socket activation, and what services gave it to keep.
///
/// # Errors
/// When the caller is not root.
pub fn pid1_sockets(paths: &Paths) -> Result<BTreeSet<u64>, InspectError> {
    let dir = paths.at("/proc/1/fd");
    let entries = fs::read_dir(&dir).map_err(InspectError::read(&dir))?;
    let links = entries.flatten().filter_map(|e| fs::read_link(e.path()).ok());
    Ok(links.filter_map(|l| l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()).collect())
}

/// The mounts that PID 1 sees.
///
/// # Errors
/// When /proc is not mounted.
pub fn mounts(paths: &Paths) -> Result<Mounts, InspectError> {
    Ok(Mounts::parse(&read_text(&paths.at("/proc/1/mountinfo"))?))
}

/// Can the root file system be written now?
pub fn root_is_writable(paths: &Paths) -> bool {
    mounts(paths).is_ok_and(|mounts| mounts.of_path(Path::new("/")).is_some_and(|root| !root.read_only))
}

/// Highest PID of the kernel threads that were there before the first program: the next kernel's threads get about the
/// same ones, before anything can keep them from it.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_threads(paths: &Paths) -> Result<i32, InspectError> {
    let dir = paths.at("/proc");
    let entries = fs::read_dir(&dir).map_err(InspectError::read(&dir))?;
    let names = entries.flatten().filter(|e| e.file_name().to_str().is_some_and(|n| n.parse::<i32>().is_ok()));
    let tasks: Vec<_> = names
        .filter_map(|e| process::stat(&read_text(&e.path().join("stat")).ok()?))
        .map(|p| (p.pid, p.ppid))
        .collect();
    let cmdline = read_text(&paths.at("/proc/cmdline")).unwrap_or_default();
    Ok(highest_boot_thread(&tasks, floor(&cmdline)))
}

/// What an update told this kernel to hand out higher PIDs than, once its own threads were there.
fn floor(cmdline: &str) -> i32 {
    let values = cmdline.split_ascii_whitespace().filter_map(|w| w.strip_prefix("sysctl.kernel.ns_last_pid="));
    values.filter_map(|value| value.parse().ok()).next_back().unwrap_or(i32::MAX)
}

/// Of pairs of PID and parent; kthreadd is PID 2, and the parent of all kernel threads. Those above `floor` came later.
fn highest_boot_thread(tasks: &[(i32, i32)], floor: i32) -> i32 {
    let is_kernel = |(pid, ppid): &(i32, i32)| *pid == 2 || *ppid == 2;
    let first_program = tasks.iter().filter(|t| !is_kernel(t) && t.0 != 1).map(|t| t.0).min().unwrap_or(i32::MAX);
    let early = tasks.iter().filter(|t| is_kernel(t) && t.0 < first_program && t.0 <= floor);
    early.map(|t| t.0).max().unwrap_or(2)
}

/// Directories that systemd-tmpfiles makes at every boot (tmpfiles.d(5)).
pub fn tmpfiles(paths: &Paths) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for dir in ["/usr/lib/tmpfiles.d", "/etc/tmpfiles.d", "/run/tmpfiles.d"] {
        for entry in fs::read_dir(paths.at(dir)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|e| e == "conf") {
                found.extend(fs::read_to_string(entry.path()).iter().flat_map(|t| t.lines()).filter_map(directory));
            }
        }
    }
    found
}

/// The directory that a line of tmpfiles.d(5) makes.
pub fn directory(line: &str) -> Option<PathBuf> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next()?;
    if !kind.starts_with(['d', 'D', 'e', 'v', 'q', 'Q']) {
        return None;
    }
    let path = words.next()?;
    Some(path.strip_prefix("/var/run/").map_or_else(|| path.into(), |rest| Path::new("/run").join(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_threads_end_at_the_first_program() {
        // 300 is a kernel thread that came with a module, later.
        let tasks = [(1, 0), (2, 0), (3, 2), (97, 2), (180, 1), (300, 2), (412, 180)];
        assert_eq!(highest_boot_thread(&tasks, i32::MAX), 97);
        assert_eq!(highest_boot_thread(&[(1, 0)], i32::MAX), 2);
        // After an update whose services have all been started anew: no program has a low PID.
        let tasks = [(1, 0), (2, 0), (97, 2), (68_000, 2), (69_400, 2), (69_559, 1)];
        let told = "quiet sysctl.kernel.pid_max=4194304 sysctl.kernel.ns_last_pid=67500 panic=10";
        assert_eq!(highest_boot_thread(&tasks, floor(told)), 97);
        assert_eq!(highest_boot_thread(&tasks, floor("quiet")), 69_400);
    }

    #[test]
    fn from_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        fs::create_dir_all(paths.at("/proc/1/fd")).unwrap();
        std::os::unix::fs::symlink("socket:[44]", paths.at("/proc/1/fd/7")).unwrap();
        std::os::unix::fs::symlink("/dev/null", paths.at("/proc/1/fd/0")).unwrap();
        assert_eq!(pid1_sockets(&paths).unwrap(), BTreeSet::from([44]));
        fs::write(paths.at("/proc/1/status"), "Name:\tsystemd\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n").unwrap();
        fs::create_dir_all(paths.at("/etc/tmpfiles.d")).unwrap();
        let text = "# d /run/no\nd /run/mysqld 0755 mysql root -\nd! /var/run/x\nf /run/file\n";
        fs::write(paths.at("/etc/tmpfiles.d/a.conf"), text).unwrap();
        assert_eq!(tmpfiles(&paths), BTreeSet::from(["/run/mysqld".into(), "/run/x".into()]));
    }
}
