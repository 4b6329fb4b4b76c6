//! Unix sockets and their peers, from sock_diag(7).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::UnixDiagName;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use super::InspectError;

/// SOCK_STREAM and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixKind {
    /// A byte stream.
    Stream,
    /// Messages without a connection.
    Datagram,
    /// Messages over a connection.
    SeqPacket,
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its inode, as its descriptor has it.
    pub inode: u64,
    /// Its type.
    pub kind: UnixKind,
    /// Whether it waits for connections.
    pub listening: bool,
    /// Address it is bound to (or, for an accepted connection, that of its listener); `@` begins an abstract one.
    pub name: Option<String>,
    /// Inode of the socket that it is connected to.
    pub peer: Option<u64>,
}

/// All unix sockets of a network namespace: of this process's own, or of the one behind the file `netns`.
pub(super) fn table(netns: Option<&Path>) -> Result<BTreeMap<u64, UnixSocket>, InspectError> {
    let Some(path) = netns else {
        return dump().map_err(InspectError::SockDiag);
    };
    let file = File::open(path).map_err(InspectError::read(path))?;
    // A thread of its own: the namespace is a property of the thread, and ends with it.
    let thread = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        dump()
    });
    let found = thread.join().unwrap_or_else(|_| Err(io::Error::other("the asking thread panicked")));
    found.map_err(InspectError::SockDiag)
}

fn dump() -> io::Result<BTreeMap<u64, UnixSocket>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    sendto(socket.as_raw_fd(), &request(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut found = BTreeMap::new();
    // The kernel sends at most 32 KiB at once, netlink(7).
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if answers(&buffer[..length], &mut found)? {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = UnixRequest {
        state_flags: StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::PEER,
        cookie: [0xff; 8],
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Takes the sockets out of one datagram; true when it was the last one.
fn answers(mut bytes: &[u8], found: &mut BTreeMap<u64, UnixSocket>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        // Messages are padded to 4 bytes, netlink(7).
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(e) => return Err(e.to_io()),
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(response)) => {
                found.extend(one(&response).map(|s| (s.inode, s)));
            }
            _ => {}
        }
        bytes = bytes.get(length.max(1)..).unwrap_or_default();
    }
    Ok(false)
}

fn one(response: &UnixResponse) -> Option<UnixSocket> {
    let header = &response.header;
    let kind = match i32::from(header.kind) {
        nix::libc::SOCK_STREAM => UnixKind::Stream,
        nix::libc::SOCK_DGRAM => UnixKind::Datagram,
        nix::libc::SOCK_SEQPACKET => UnixKind::SeqPacket,
        _ => return None,
    };
    Some(UnixSocket {
        inode: header.inode.into(),
        kind,
        // TCP_LISTEN, which unix sockets use too.
        listening: header.state == 10,
        name: response.name().map(|name| match name {
            UnixDiagName::Pathname(path) => path.to_string_lossy().into_owned(),
            UnixDiagName::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        }),
        peer: response.peer().filter(|p| *p != 0).map(u64::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(fd: i32) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()
    }

    #[test]
    fn accepted_sockets_have_their_listeners_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let table = table(None).unwrap();
        let client = &table[&inode(client.as_raw_fd())];
        assert_eq!((client.kind, client.listening, client.name.as_deref()), (UnixKind::Stream, false, None));
        let peer = &table[&client.peer.unwrap()];
        assert_eq!(peer.inode, inode(server.as_raw_fd()));
        assert_eq!(peer.name.as_deref(), path.to_str());
        assert!(table[&inode(listener.as_raw_fd())].listening);
    }

    #[test]
    fn broken_answers_are_errors() {
        let mut found = BTreeMap::new();
        assert!(answers(&[1, 2, 3], &mut found).is_err());
        assert!(found.is_empty());
    }
}
