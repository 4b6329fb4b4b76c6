//! Huge pages for another process's memory, and work that waits for all other work.
#![allow(unsafe_code)]

use std::io;

use nix::libc;

use super::pidfd::PidFd;

/// MADV_COLLAPSE of linux/mman.h (Linux 6.1).
const MADV_COLLAPSE: libc::c_int = 25;

/// Makes huge pages of `len` bytes at `start`, both multiples of 2 MiB, in another process.
///
/// # Errors
/// EINVAL: the kernel cannot do it there. EAGAIN, ENOMEM: not now. ESRCH: the process is gone.
pub fn collapse(process: &PidFd, start: u64, len: u64) -> io::Result<()> {
    let part = libc::iovec { iov_base: start as *mut libc::c_void, iov_len: len as usize };
    let fd = std::os::fd::AsRawFd::as_raw_fd(process);
    // SAFETY: the kernel reads one iovec; the address in it is the other process's.
    let result = unsafe { libc::syscall(libc::SYS_process_madvise, fd, &raw const part, 1, MADV_COLLAPSE, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the calling thread the least important one.
pub fn yield_to_all() {
    // SAFETY: takes three integers; 0 is the calling thread, since Linux has a nice value per thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
