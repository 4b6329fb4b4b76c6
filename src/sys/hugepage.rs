//! Huge pages, and where in the machine's memory they lie.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of a huge page.
pub const SIZE: u64 = 2 << 20;
/// How often, and how long apart, a page is looked for that the kernel is moving.
const LOOKS: usize = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The pages of a file on a hugetlbfs of 2 MiB pages. They stay where they are as long as the file does.
#[derive(Debug)]
pub struct Pages {
    base: NonNull<u8>,
    count: usize,
    /// Of this process.
    pagemap: File,
}

// SAFETY: the mapping is of no thread; whoever writes to a part of a page has it for itself, as `write` demands.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Makes `file` `count` pages long, which it then has for sure.
    ///
    /// # Errors
    /// ENOMEM: there are not so many huge pages.
    pub fn make(file: &File, count: usize) -> io::Result<Self> {
        file.set_len(count as u64 * SIZE)?;
        Self::map(file, count, MapFlags::MAP_SHARED)
    }

    /// Maps the `count` pages of a file that was made before. Of those that were taken away since none may be touched.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn open(file: &File, count: usize) -> io::Result<Self> {
        Self::map(file, count, MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE)
    }

    fn map(file: &File, count: usize, flags: MapFlags) -> io::Result<Self> {
        let size = NonZeroUsize::new(count * SIZE as usize).ok_or(io::ErrorKind::InvalidInput)?;
        let pagemap = File::open("/proc/self/pagemap")?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags, file, 0)? };
        Ok(Self { base: base.cast(), count, pagemap })
    }

    /// Writes `data` into page `page`, `offset` bytes from its begin. Nobody else reads or writes there meanwhile.
    pub fn write(&self, page: usize, offset: usize, data: &[u8]) {
        let place = self.place(page, offset, data.len());
        // SAFETY: the range lies within the mapping, which is writable, and `data` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), place, data.len()) }
    }

    /// Reads from where [`Pages::write`] writes to.
    pub fn read(&self, page: usize, offset: usize, data: &mut [u8]) {
        let place = self.place(page, offset, data.len());
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(place, data.as_mut_ptr(), data.len()) }
    }

    fn place(&self, page: usize, offset: usize, length: usize) -> *mut u8 {
        let fits = offset.checked_add(length).is_some_and(|end| end <= SIZE as usize);
        assert!(page < self.count && fits, "not in page {page}");
        // SAFETY: page and offset lie within the mapping, as was just seen.
        unsafe { self.base.as_ptr().add(page * SIZE as usize + offset) }
    }

    /// Physical address of a page, which is there from then on.
    ///
    /// # Errors
    /// EPERM where addresses are hidden (CAP_SYS_ADMIN). EAGAIN: the kernel is moving it all the time.
    pub fn address(&self, page: usize) -> io::Result<u64> {
        for _ in 0..LOOKS {
            // SAFETY: the byte lies within the mapping. Volatile: it is read for the page to be there.
            let _ = unsafe { self.place(page, 0, 1).read_volatile() };
            if let Some(address) = self.physical(self.base.as_ptr() as u64 + page as u64 * SIZE)? {
                return Ok(address);
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        Err(io::Error::from_raw_os_error(nix::libc::EAGAIN))
    }

    /// Physical address of a page of this process: the kernel's admin-guide/mm/pagemap.rst. None of one that is not there now.
    fn physical(&self, address: u64) -> io::Result<Option<u64>> {
        let mut entry = [0; 8];
        self.pagemap.read_exact_at(&mut entry, address / 4096 * 8)?;
        let entry = u64::from_ne_bytes(entry);
        let (present, frame) = (entry >> 63 == 1, entry & ((1 << 55) - 1));
        match (present, frame) {
            (false, _) => Ok(None),
            (true, 0) => Err(io::Error::from_raw_os_error(nix::libc::EPERM)),
            (true, frame) => Ok(Some(frame * 4096)),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more. Were it to stay, nothing would depend on it.
        let _ = unsafe { munmap(self.base.cast(), self.count * SIZE as usize) };
    }
}

/// Writes `content` to the beginning of the one page of `file`, which is on a hugetlbfs of 2 MiB pages, and gives its physical
/// address. The page stays where it is as long as the file does.
///
/// # Errors
/// ENOMEM: there is no free huge page. EPERM where addresses are hidden (CAP_SYS_ADMIN).
pub fn fill(file: &File, content: &[u8]) -> io::Result<u64> {
    let page = Pages::make(file, 1)?;
    page.write(0, 0, content);
    page.address(0)
}
