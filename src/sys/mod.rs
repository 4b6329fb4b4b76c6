//! The edge to the kernel: the only room with `unsafe`.

pub mod advise;
pub mod atomic;
pub mod fds;
pub mod freezer;
pub mod haste;
pub mod hugepage;
pub mod kexec;
pub mod mdwe;
pub mod pagescan;
pub mod pidfd;
pub mod shared;
pub mod spawn;
pub mod timerfd;
pub mod trust;
pub mod uffd;
pub mod watchdog;
#[cfg(test)]
pub mod watched;

use std::fs::File;
use std::os::fd::AsFd;

/// Writes everything of the file system that `file` lies on to its device: syncfs(2).
///
/// # Errors
/// EIO, ENOSPC: something did not arrive.
pub fn syncfs(file: &File) -> nix::Result<()> {
    nix::unistd::syncfs(file.as_fd())
}
