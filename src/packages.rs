//! The package manager's locks: nobody switches kernels under a running dpkg.

use std::fs::File;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::paths::Paths;

/// Held with fcntl(2) while packages are being changed.
const LOCKS: [&str; 2] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock"];

/// Whether packages are being changed. What cannot be looked at counts as locked.
pub fn are_changing(paths: &Paths) -> bool {
    LOCKS.iter().any(|lock| is_locked(&paths.at(lock)))
}

fn is_locked(path: &std::path::Path) -> bool {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return e.kind() != std::io::ErrorKind::NotFound,
    };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).is_err() || lock.l_type != libc::F_UNLCK as libc::c_short
}
