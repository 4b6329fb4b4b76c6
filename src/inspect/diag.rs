//! Questions to the kernel's tables of sockets, sock_diag(7).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use super::InspectError;

/// Asks for tables of a network namespace, this process's own or the one behind the file `netns`, and keeps what `pick`
/// makes of the answers.
pub(super) fn ask<T: Send + 'static>(
    netns: Option<&Path>,
    requests: Vec<SockDiagMessage>,
    pick: fn(SockDiagMessage) -> Option<T>,
) -> Result<Vec<T>, InspectError> {
    let all = move || requests.iter().try_fold(Vec::new(), |found, request| dump(request, pick, found));
    let Some(path) = netns else {
        return all().map_err(InspectError::SockDiag);
    };
    let file = File::open(path).map_err(InspectError::read(path))?;
    // A thread of its own: the namespace is a property of the thread, and ends with it.
    let thread = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        all()
    });
    let found = thread.join().unwrap_or_else(|_| Err(io::Error::other("the asking thread panicked")));
    found.map_err(InspectError::SockDiag)
}

fn dump<T>(request: &SockDiagMessage, pick: fn(SockDiagMessage) -> Option<T>, mut found: Vec<T>) -> io::Result<Vec<T>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    sendto(socket.as_raw_fd(), &packet(request), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    // The kernel sends at most 32 KiB at once, netlink(7).
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if answers(&buffer[..length], pick, &mut found)? {
            return Ok(found);
        }
    }
}

fn packet(request: &SockDiagMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.clone().into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the sockets out of one datagram; true when it was the last one.
pub fn answers<T>(mut bytes: &[u8], pick: fn(SockDiagMessage) -> Option<T>, found: &mut Vec<T>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        // Messages are padded to 4 bytes, netlink(7).
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            // An acknowledgement is an error without a code.
            NetlinkPayload::Error(e) if e.code.is_some() => {
                // Not e.to_io(), which overflows with a code that no kernel sends.
                return Err(io::Error::from_raw_os_error(e.raw_code().saturating_neg()));
            }
            NetlinkPayload::InnerMessage(message) => found.extend(pick(message)),
            _ => {}
        }
        bytes = bytes.get(length.max(1)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_answers_are_errors() {
        let mut found = Vec::new();
        assert!(answers(&[1, 2, 3], Some, &mut found).is_err());
        assert!(found.is_empty());
        // An error whose code has no positive counterpart.
        let mut error = vec![36, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        error.extend(i32::MIN.to_ne_bytes());
        error.resize(36, 0);
        assert!(answers(&error, Some, &mut found).is_err());
    }
}
