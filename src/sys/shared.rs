//! Memory that outlives the process: a memfd, mapped piece by piece as it grows.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a slot.
pub const SLOT: usize = 64;
/// Bytes by which it grows.
const CHUNK: usize = 64 << 10;

/// Slots that all who have the descriptor see. Its pages are locked: what the kernel itself writes into a slot, read(2)'s
/// result, arrives even where the process is being killed.
#[derive(Debug)]
pub struct Shared {
    file: File,
    chunks: Vec<NonNull<c_void>>,
}

// SAFETY: the mappings belong to this value alone, and are reached through `&mut self` only.
unsafe impl Send for Shared {}

impl Shared {
    /// A new one, without a slot.
    ///
    /// # Errors
    /// As memfd_create(2).
    pub fn create() -> io::Result<Self> {
        let file = memfd_create(c"kup-pager", MFdFlags::MFD_CLOEXEC)?;
        Ok(Self { file: file.into(), chunks: Vec::new() })
    }

    /// The one that a former process made, with its slots.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn open(fd: OwnedFd) -> io::Result<Self> {
        let mut shared = Self { file: fd.into(), chunks: Vec::new() };
        let len = shared.file.metadata()?.len() as usize;
        while shared.chunks.len() * CHUNK < len {
            shared.map()?;
        }
        Ok(shared)
    }

    /// Its descriptor.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.chunks.len() * (CHUNK / SLOT)
    }

    /// Slot `n`, made with all before it where it is not there yet; a new slot is all zeros.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn slot(&mut self, n: usize) -> io::Result<&mut [u8; SLOT]> {
        while n >= self.slots() {
            self.file.set_len(((self.chunks.len() + 1) * CHUNK) as u64)?;
            self.map()?;
        }
        let chunk = self.chunks[n * SLOT / CHUNK];
        // SAFETY: the chunk is mapped for as long as `self` lives, the slot lies within it, and `&mut self` lends it once.
        Ok(unsafe { &mut *chunk.byte_add(n * SLOT % CHUNK).cast().as_ptr() })
    }

    fn map(&mut self) -> io::Result<()> {
        let offset = (self.chunks.len() * CHUNK) as i64;
        let len = NonZeroUsize::new(CHUNK).expect("not zero");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE | MapFlags::MAP_LOCKED;
        // SAFETY: a new mapping at a place that the kernel chooses.
        self.chunks.push(unsafe { mmap(None, len, protection, flags, &self.file, offset) }?);
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for chunk in &self.chunks {
            // SAFETY: mapped by us, and nobody borrows it any more.
            let _ = unsafe { munmap(*chunk, CHUNK) };
        }
    }
}
