//! userfaultfd(2), as one who serves another process's faults needs it. The crate `userfaultfd` would fit but for its
//! build: it wants libclang, for a handful of ioctls whose numbers never change.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// Bytes of `struct uffd_msg`.
pub const MESSAGE: usize = 32;

#[repr(C)]
pub(super) struct Range {
    pub start: u64,
    pub len: u64,
}

#[repr(C)]
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct Zero {
    range: Range,
    mode: u64,
    zeroed: i64,
}

mod ioctl {
    use super::{Copy, Range, Zero};
    nix::ioctl_read!(unregister, 0xaa, 0x01, Range);
    nix::ioctl_read!(wake, 0xaa, 0x02, Range);
    nix::ioctl_readwrite!(copy, 0xaa, 0x03, Copy);
    nix::ioctl_readwrite!(zero, 0xaa, 0x04, Zero);
}

/// What a userfaultfd tells (linux/userfaultfd.h). Reading it lets the process go on, except with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page at this address.
    Fault(u64),
    /// It has forked; the child's userfaultfd has this number in the process that read the event.
    Fork(RawFd),
    /// mremap(2) has moved `len` bytes.
    Remap {
        /// First address before.
        from: u64,
        /// First address now.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// madvise(2) is about to free these pages; they stay mapped and are zero from now on.
    Remove {
        /// First address.
        start: u64,
        /// Address behind the last one.
        end: u64,
    },
    /// These are not mapped any more.
    Unmap {
        /// First address.
        start: u64,
        /// Address behind the last one.
        end: u64,
    },
}

impl Event {
    /// Reads `struct uffd_msg`; `None` for what it does not know, such as an empty message.
    pub fn parse(message: &[u8; MESSAGE]) -> Option<Self> {
        let word = |n: usize| u64::from_ne_bytes(message[n..n + 8].try_into().expect("eight bytes"));
        Some(match message[0] {
            0x12 => Self::Fault(word(16)),
            0x13 => Self::Fork(word(8) as u32 as RawFd),
            0x14 => Self::Remap { from: word(8), to: word(16), len: word(24) },
            0x15 => Self::Remove { start: word(8), end: word(16) },
            0x16 => Self::Unmap { start: word(8), end: word(16) },
            _ => return None,
        })
    }
}

/// A userfaultfd of another process's memory.
#[derive(Debug)]
pub struct Uffd(pub(super) OwnedFd);

impl From<OwnedFd> for Uffd {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Uffd {
    /// Reads one message into `message`, and gives the child's userfaultfd along with [`Event::Fork`]. `None` where there
    /// is none; the descriptor must not block.
    ///
    /// # Errors
    /// As read(2); EPROTO for an event that is not asked for at its creation.
    pub fn read(&self, message: &mut [u8; MESSAGE]) -> nix::Result<Option<(Event, Option<Self>)>> {
        match nix::unistd::read(&self.0, message) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            result => result?,
        };
        let event = Event::parse(message).ok_or(Errno::EPROTO)?;
        let child = match event {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
            Event::Fork(fd) => Some(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => None,
        };
        Ok(Some((event, child)))
    }

    /// Fills missing pages from `at` on with `data`, wakes who waits for them, and returns how many bytes it came; at least
    /// a page.
    ///
    /// # Errors
    /// EEXIST: the first page is there. ENOENT: not all of it lies in one registered mapping. EAGAIN: the process is
    /// changing its mappings, and events about it come. ESRCH: it is gone. ENOMEM: its control group is full.
    pub fn copy(&self, at: u64, data: &[u8]) -> nix::Result<usize> {
        let mut copy = Copy { to: at, from: data.as_ptr() as u64, len: data.len() as u64, mode: 0, copied: 0 };
        // SAFETY: the kernel reads `data`, which outlives the call, and writes to the other process through its own checks.
        let result = unsafe { ioctl::copy(self.0.as_raw_fd(), &raw mut copy) };
        done(result, copy.copied)
    }

    /// Fills missing pages with zeros; otherwise as [`Uffd::copy`].
    ///
    /// # Errors
    /// As [`Uffd::copy`].
    pub fn zero(&self, at: u64, len: u64) -> nix::Result<usize> {
        let mut zero = Zero { range: Range { start: at, len }, mode: 0, zeroed: 0 };
        // SAFETY: the kernel touches nothing of ours but `zero`.
        let result = unsafe { ioctl::zero(self.0.as_raw_fd(), &raw mut zero) };
        done(result, zero.zeroed)
    }

    /// Lets threads that wait for pages of this range try again.
    ///
    /// # Errors
    /// EINVAL where no process can have such addresses.
    pub fn wake(&self, at: u64, len: u64) -> nix::Result<()> {
        let mut range = Range { start: at, len };
        // SAFETY: the kernel only reads `range`.
        unsafe { ioctl::wake(self.0.as_raw_fd(), &raw mut range) }.map(drop)
    }

    /// Makes this range ordinary memory again.
    ///
    /// # Errors
    /// EINVAL where there is a mapping that could never be registered; ENOMEM where the process is gone.
    pub fn unregister(&self, start: u64, len: u64) -> nix::Result<()> {
        let mut range = Range { start, len };
        // SAFETY: the kernel only reads `range`.
        unsafe { ioctl::unregister(self.0.as_raw_fd(), &raw mut range) }.map(drop)
    }
}

/// A part that was done comes with EAGAIN; the caller goes on behind it and is told there what is in the way.
fn done(result: nix::Result<libc::c_int>, bytes: i64) -> nix::Result<usize> {
    match result {
        Err(Errno::EAGAIN) | Ok(_) if bytes > 0 => Ok(bytes as usize),
        Err(e) => Err(e),
        Ok(_) => Err(Errno::EIO),
    }
}
