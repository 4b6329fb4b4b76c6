//! What needs `unsafe`: memory mappings, fork, inherited file descriptors, a timer for more than one thread.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous};
use nix::sys::timer::Timer;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

const PROT: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

/// A mapping of 64-bit words that stays until the process ends; other processes may share it.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping is never unmapped, and all access goes through atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `MAP_PRIVATE` memory, all zero.
    pub fn private(len: usize) -> Result<Self> {
        Self::anonymous(len, MapFlags::MAP_PRIVATE)
    }

    /// `MAP_SHARED` memory without a file, all zero; children of fork(2) share it.
    pub fn shared(len: usize) -> Result<Self> {
        Self::anonymous(len, MapFlags::MAP_SHARED)
    }

    fn anonymous(len: usize, flags: MapFlags) -> Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that is in use.
        let start = unsafe { mmap_anonymous(None, size(len)?, PROT, flags) };
        Ok(Self { start: start.context("cannot map memory")?.cast(), len })
    }

    /// The first `len` words of a file, shared with everyone who maps it.
    pub fn of_file(file: impl AsFd, len: usize) -> Result<Self> {
        // SAFETY: as in `anonymous`; the callers' files are memfds sealed against shrinking.
        let start = unsafe { mmap(None, size(len)?, PROT, MapFlags::MAP_SHARED, file, 0) };
        Ok(Self { start: start.context("cannot map a file")?.cast(), len })
    }

    /// Gives the pages back (`MADV_DONTNEED`): private memory reads as zero from now on.
    pub fn discard(&self) -> Result<()> {
        // SAFETY: the range is exactly this mapping, whose users expect any value.
        unsafe { madvise(self.start.cast(), self.len * 8, MmapAdvise::MADV_DONTNEED) }.context("madvise")
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this length, is aligned to a page, and lasts until the process ends.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

fn size(words: usize) -> Result<NonZeroUsize> {
    NonZeroUsize::new(words * 8).context("an empty mapping")
}

/// Forks. To be called before the first thread is started, so that the child may do as it likes.
pub fn fork() -> Result<ForkResult> {
    // SAFETY: the caller has one thread (see above), so no lock can be held by a thread that is not in the child.
    unsafe { nix::unistd::fork() }.context("fork")
}

/// Lets a forked child do `work`, which must neither allocate nor lock; gives what came of it.
pub fn forked(work: impl FnOnce() -> bool) -> Result<bool> {
    // SAFETY: the child does what may be done beside other threads, and ends without running anything of theirs.
    match unsafe { nix::unistd::fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(waitpid(child, None)? == WaitStatus::Exited(child, 0)),
        // SAFETY: it ends the child at once.
        ForkResult::Child => unsafe { libc::_exit(i32::from(!work())) },
    }
}

/// From this size on, in bytes, glibc gives each block a mapping of its own.
pub fn mmap_threshold(bytes: usize) -> Result<()> {
    // SAFETY: mallopt takes numbers only.
    let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, bytes.try_into()?) };
    anyhow::ensure!(done == 1, "mallopt refuses {bytes}");
    Ok(())
}

/// Lets glibc give free memory back to the kernel.
pub fn trim() {
    // SAFETY: it touches what nobody has allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Takes over a descriptor that the parent left open for this program, given as a number on the command line.
pub fn inherited(number: &str) -> Result<OwnedFd> {
    let fd: RawFd = number.parse().with_context(|| format!("'{number}' is no file descriptor"))?;
    anyhow::ensure!(fd > 2, "{fd} is a standard stream");
    // SAFETY: called once per number, at the start of the program, before it opens anything itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A POSIX timer that any thread may use.
#[derive(Debug)]
pub struct SharedTimer(pub Timer);

// SAFETY: timer_t is a number that is valid in the whole process; nix leaves `Send` out only because libc's type for
// it is a pointer.
unsafe impl Send for SharedTimer {}

/// PR_GET_MDWE (prctl(2), Linux 6.3): whether this process may gain executable memory; -1 on older kernels.
pub fn memory_deny_write_execute() -> i32 {
    const PR_GET_MDWE: i32 = 66;
    // SAFETY: this prctl takes numbers only and changes nothing.
    unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) }
}
