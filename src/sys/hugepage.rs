//! Huge pages, and where in the machine's memory they lie.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a huge page.
pub const SIZE: u64 = 2 << 20;

/// Writes `content` to the beginning of the one page of `file`, which is on a hugetlbfs of 2 MiB pages, and gives its physical
/// address. The page stays where it is as long as the file does.
///
/// # Errors
/// ENOMEM: there is no free huge page. EPERM where addresses are hidden (CAP_SYS_ADMIN).
pub fn fill(file: &File, content: &[u8]) -> io::Result<u64> {
    assert!(content.len() as u64 <= SIZE);
    file.set_len(SIZE)?;
    let size = NonZeroUsize::new(SIZE as usize).expect("not 0");
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(None, size, ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0)? };
    // SAFETY: the mapping is that long, writable and nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), base.as_ptr().cast::<u8>(), content.len()) };
    let address = physical(base.as_ptr() as u64);
    // SAFETY: nothing refers to the mapping any more.
    unsafe { munmap(base, SIZE as usize)? };
    address
}

/// Physical address of a page of this process: the kernel's admin-guide/mm/pagemap.rst.
fn physical(address: u64) -> io::Result<u64> {
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / 4096 * 8)?;
    let entry = u64::from_ne_bytes(entry);
    let (present, frame) = (entry >> 63 == 1, entry & ((1 << 55) - 1));
    if present && frame != 0 { Ok(frame * 4096) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
}
