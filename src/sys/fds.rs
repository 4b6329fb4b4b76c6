//! Descriptors that others give us.
#![allow(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use libsystemd::activation::receive_descriptors_with_names;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives one byte, and the descriptor that came with it (SCM_RIGHTS), if one did.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: impl AsFd) -> nix::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let socket = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fds = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => Some(fds),
        _ => None,
    });
    // SAFETY: there is room for one; the kernel has just made it for us, and nobody else knows its number.
    Ok(fds.and_then(|fds| fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })))
}

/// What systemd kept for this service while it did not run, by name (sd_listen_fds_with_names(3)). Gives them once: their
/// variables are taken out of the environment, so it is for a process without other threads.
///
/// # Errors
/// When systemd's variables cannot be read.
pub fn kept() -> io::Result<Vec<(String, OwnedFd)>> {
    let fds = receive_descriptors_with_names(true).map_err(io::Error::other)?;
    // SAFETY: systemd gave them to this process, and without its variables nobody finds them again.
    let own = |fd: libsystemd::activation::FileDescriptor| unsafe { OwnedFd::from_raw_fd(fd.into_raw_fd()) };
    Ok(fds.into_iter().map(|(fd, name)| (name, own(fd))).collect())
}
