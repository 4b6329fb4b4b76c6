//! For tests: memory of our own whose faults somebody else serves, as CRIU leaves a restored task's.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::libc::{self, c_void};
use nix::sys::mman::{MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mremap, munmap};

use super::uffd::{Range, Uffd};

mod ioctl {
    use super::{Api, Register};
    nix::ioctl_readwrite!(api, 0xaa, 0x3f, Api);
    nix::ioctl_readwrite!(register, 0xaa, 0x00, Register);
}

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

/// As CRIU makes it, all events asked for; `None` where the kernel or our rights do not allow it.
pub fn open() -> Option<Uffd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: userfaultfd takes an integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    // SAFETY: the kernel has just made it.
    let uffd = (fd >= 0).then(|| Uffd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))?;
    // FORK, REMAP, REMOVE, UNMAP.
    let mut ask = Api { api: 0xaa, features: 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6, ioctls: 0 };
    // SAFETY: the kernel reads and writes `ask` only.
    unsafe { ioctl::api(uffd.0.as_raw_fd(), &raw mut ask) }.ok()?;
    Some(uffd)
}

/// Anonymous memory, which is never unmapped but by [`Watched::unmap`].
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// First address.
    pub start: u64,
}

impl Watched {
    /// New memory of `len` bytes, at a multiple of 2 MiB, that `uffd` serves.
    pub fn map(uffd: Option<&Uffd>, len: u64) -> Self {
        const HUGE: u64 = 2 << 20;
        let size = NonZeroUsize::new((len + HUGE) as usize).unwrap();
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping.
        let start = unsafe { mmap_anonymous(None, size, protection, flags) }.unwrap().as_ptr() as u64;
        let start = start.next_multiple_of(HUGE);
        if let Some(uffd) = uffd {
            let mut ask = Register { range: Range { start, len }, mode: 1, ioctls: 0 };
            // SAFETY: the kernel reads and writes `ask` only.
            unsafe { ioctl::register(uffd.0.as_raw_fd(), &raw mut ask) }.expect("UFFDIO_REGISTER");
        }
        Self { start }
    }

    fn at(self, offset: u64) -> NonNull<c_void> {
        NonNull::new((self.start + offset) as *mut c_void).unwrap()
    }

    /// The eight bytes at `offset`.
    pub fn read(self, offset: u64) -> u64 {
        // SAFETY: tests stay within the mapping; other threads write, if at all, the same way.
        unsafe { self.at(offset).cast::<u64>().as_ptr().read_volatile() }
    }

    /// Writes eight bytes at `offset`.
    pub fn write(self, offset: u64, value: u64) {
        // SAFETY: as for `read`.
        unsafe { self.at(offset).cast::<u64>().as_ptr().write_volatile(value) }
    }

    /// madvise(2).
    pub fn advise(self, offset: u64, len: u64, advice: MmapAdvise) {
        // SAFETY: nothing of Rust's lives in this memory.
        unsafe { madvise(self.at(offset), len as usize, advice) }.unwrap();
    }

    /// munmap(2).
    pub fn unmap(self, offset: u64, len: u64) {
        // SAFETY: nothing of Rust's lives in this memory.
        unsafe { munmap(self.at(offset), len as usize) }.unwrap();
    }

    /// Moves `len` bytes to `target`.
    pub fn remap(self, offset: u64, len: u64, target: Self) {
        let flags = MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED;
        // SAFETY: nothing of Rust's lives in this memory, nor at the target.
        unsafe { mremap(self.at(offset), len as usize, len as usize, flags, Some(target.at(0))) }.unwrap();
    }
}

/// Forks; the child does `work`, which must neither allocate nor lock, and exits with what it returns. Not by fork(3): that
/// holds the allocator's locks until the fork's event has been read, by whom might need them in these tests.
pub fn fork(work: impl FnOnce() -> i32) -> nix::unistd::Pid {
    // SAFETY: as fork(2); the child calls `work` and _exit only.
    match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
        // SAFETY: it ends the child at once.
        0 => unsafe { libc::_exit(work()) },
        child => nix::unistd::Pid::from_raw(child as i32),
    }
}
