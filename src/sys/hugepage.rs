//! Huge pages, and where in the machine's memory they lie.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a huge page.
pub const SIZE: u64 = 2 << 20;

/// Makes `file`, which is on a hugetlbfs of 2 MiB pages, `count` pages long, writes `content` to the beginning of each that is
/// `wanted` by its number, and gives their physical addresses. The pages stay where they are as long as the file does.
///
/// # Errors
/// ENOMEM: there are not so many huge pages. EPERM where the addresses are hidden (CAP_SYS_ADMIN).
pub fn fill(file: &File, count: usize, content: &[u8], wanted: impl Fn(usize) -> bool) -> io::Result<Vec<u64>> {
    let length = count * SIZE as usize;
    assert!(count > 0 && content.len() <= SIZE as usize);
    file.set_len(length as u64)?;
    let size = NonZeroUsize::new(length).expect("count is not 0");
    // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe { mmap(None, size, ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0)? };
    for n in (0..count).filter(|n| wanted(*n)) {
        // SAFETY: page n lies within the mapping, which is writable and nobody else's.
        unsafe {
            let page = base.as_ptr().cast::<u8>().add(n * SIZE as usize);
            std::ptr::copy_nonoverlapping(content.as_ptr(), page, content.len());
        }
    }
    let address = |n: usize| physical(base.as_ptr() as u64 + n as u64 * SIZE);
    let addresses = (0..count).filter(|n| wanted(*n)).map(address).collect();
    // SAFETY: nothing refers to the mapping any more.
    unsafe { munmap(base, length)? };
    addresses
}

/// Physical address of a page of this process: the kernel's admin-guide/mm/pagemap.rst.
fn physical(address: u64) -> io::Result<u64> {
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / 4096 * 8)?;
    let entry = u64::from_ne_bytes(entry);
    let (present, frame) = (entry >> 63 == 1, entry & ((1 << 55) - 1));
    if present && frame != 0 { Ok(frame * 4096) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
}
