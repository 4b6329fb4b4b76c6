//! The edge to the kernel: the only room with `unsafe`.

pub mod atomic;
pub mod kexec;
pub mod pidfd;
pub mod spawn;
