//! Arming another process's timerfd through a duplicate of its descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;

/// `_IOW('T', 0, __u64)` of linux/timerfd.h: how many expirations a reader will find.
const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;

/// Lets `timer` tick every `interval`, with `ticks` expirations unread.
///
/// # Errors
/// When it is no timerfd.
pub fn arm(timer: &OwnedFd, interval: Duration, ticks: u64) -> io::Result<()> {
    let every = libc::timespec { tv_sec: interval.as_secs() as i64, tv_nsec: interval.subsec_nanos().into() };
    let spec = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: the specification lives until the call returns; no old value is asked for.
    if unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &spec, std::ptr::null_mut()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request reads one u64, which lives until the call returns.
    if ticks > 0 && unsafe { libc::ioctl(timer.as_raw_fd(), TFD_IOC_SET_TICKS, &ticks) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
