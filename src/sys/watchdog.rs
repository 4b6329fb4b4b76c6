//! A watchdog's character device: linux/watchdog.h, watchdog-api.rst.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc::c_int;

/// Written last before the close, it tells the driver to stop the timer then.
const MAGIC: &[u8] = b"V";
/// Any other byte.
const PING: &[u8] = b"\0";

mod ioctl {
    nix::ioctl_readwrite!(settimeout, b'W', 6, nix::libc::c_int);
}

/// An open watchdog. Its timer runs from the open on, and, unless it is stopped, goes on after the drop.
#[derive(Debug)]
pub struct Watchdog(File);

impl Watchdog {
    /// Opens the device `path`, which starts its timer.
    ///
    /// # Errors
    /// EBUSY where another process has it open.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// Sets the time to the reset; the kernel's answer, in seconds, may be rounded.
    ///
    /// # Errors
    /// EINVAL where the hardware cannot count so far, EOPNOTSUPP where its time cannot be set.
    pub fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut value = c_int::try_from(seconds).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the request reads and writes one int, which lives until the call returns.
        unsafe { ioctl::settimeout(self.0.as_raw_fd(), &mut value) }?;
        Ok(value.unsigned_abs())
    }

    /// Begins the time anew, and makes sure that the close will not stop the timer.
    ///
    /// It is a write, not WDIOC_KEEPALIVE: whoever had the device before may have announced a magic close and stopped the timer
    /// by WDIOS_DISABLECARD, as systemd does. The kernel then remembers the announcement until the next write
    /// (watchdog_release()), and our own close would stop the timer.
    ///
    /// # Errors
    /// What the driver says.
    pub fn ping(&mut self) -> io::Result<()> {
        self.0.write_all(PING)
    }

    /// Stops the timer and closes the device.
    ///
    /// # Errors
    /// When the magic close cannot be announced. A device with `nowayout` lets it be announced and goes on: look at its
    /// state afterwards.
    pub fn stop(mut self) -> io::Result<()> {
        self.0.write_all(MAGIC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_watchdog_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog0");
        assert_eq!(Watchdog::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, "").unwrap();
        let mut file = Watchdog::open(&path).unwrap();
        assert_eq!(file.set_timeout(3).unwrap_err().raw_os_error(), Some(nix::libc::ENOTTY));
        assert_eq!(file.set_timeout(u32::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        file.ping().unwrap();
        file.stop().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0V");
    }
}
