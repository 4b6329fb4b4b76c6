//! kexec_file_load(2), which has no wrapper in libc.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::Result;
use nix::errno::Errno;
use nix::libc::{self, c_long, c_ulong};

/// `linux/kexec.h`.
const KEXEC_FILE_UNLOAD: c_ulong = 1;
/// `linux/kexec.h`.
const KEXEC_FILE_NO_INITRAMFS: c_ulong = 4;

/// `linux/kexec.h`, since Linux 6.8.
const KEXEC_FILE_DEBUG: c_ulong = 8;

/// Loads `kernel` as the target of the next kexec, in place of one that is loaded already. `tell`: the kernel's log says
/// where its parts will be put; kernels before 6.8 do not know how (EINVAL).
///
/// # Errors
/// As kexec_file_load(2) says; what was loaded before is then still loaded.
pub fn load(kernel: BorrowedFd<'_>, initrd: Option<BorrowedFd<'_>>, cmdline: &CStr, tell: bool) -> Result<()> {
    let line = cmdline.to_bytes_with_nul();
    let flags = if initrd.is_none() { KEXEC_FILE_NO_INITRAMFS } else { 0 } | if tell { KEXEC_FILE_DEBUG } else { 0 };
    // The system call looks at c_long-sized arguments, hence the widening.
    let initrd = initrd.map_or(-1, |fd| c_long::from(fd.as_raw_fd()));
    // SAFETY: both descriptors are borrowed for the call (-1 goes with NO_INITRAMFS); `line` is valid for its length,
    // NUL included as the call demands; the kernel copies it and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            c_long::from(kernel.as_raw_fd()),
            initrd,
            line.len() as c_ulong,
            line.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Unloads the target; none loaded is fine.
///
/// # Errors
/// As kexec_file_load(2) says.
pub fn unload() -> Result<()> {
    let none: c_long = -1;
    // SAFETY: with UNLOAD the kernel looks at no other argument; the null pointer goes with length 0.
    let result = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, none, none, 0 as c_ulong, std::ptr::null::<u8>(), KEXEC_FILE_UNLOAD)
    };
    Errno::result(result).map(drop)
}
