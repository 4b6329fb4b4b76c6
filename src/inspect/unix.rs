//! Unix sockets and their peers, from sock_diag(7).

use std::collections::BTreeMap;
use std::path::Path;

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::nlas::UnixDiagName;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};

use super::{InspectError, diag};

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
    /// Inode of the socket that it is connected to; of the listener, as long as that has not accepted the connection.
    pub peer: Option<u64>,
}

/// All unix sockets of a network namespace: of this process's own, or of the one behind the file `netns`.
pub(super) fn table(netns: Option<&Path>) -> Result<BTreeMap<u64, UnixSocket>, InspectError> {
    let request = UnixRequest {
        state_flags: StateFlags::from_bits_retain(u32::MAX),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::ICONS,
        cookie: [0xff; 8],
    };
    let found = diag::ask(netns, vec![SockDiagMessage::UnixRequest(request)], answered)?;
    let waiting: Vec<(u64, u64)> =
        found.iter().flat_map(|(s, clients)| clients.iter().map(|c| (u64::from(*c), s.inode))).collect();
    let mut table: BTreeMap<u64, UnixSocket> = found.into_iter().map(|(s, _)| (s.inode, s)).collect();
    // The other end of a connection that is not accepted yet has no inode.
    for (client, listener) in waiting {
        if let Some(client) = table.get_mut(&client) {
            client.peer = Some(listener);
        }
    }
    Ok(table)
}

/// The socket that an answer tells of, and the inodes of those that wait for it to accept them.
pub fn answered(message: SockDiagMessage) -> Option<(UnixSocket, Vec<u32>)> {
    let SockDiagMessage::UnixResponse(response) = message else { return None };
    let waiting = response.pending_connections().unwrap_or_default().to_vec();
    Some((one(&response)?, waiting))
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
    use std::os::fd::AsRawFd;
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
        let waiting = table(None).unwrap()[&inode(client.as_raw_fd())].peer;
        assert_eq!(waiting, Some(inode(listener.as_raw_fd())), "not accepted yet");
        let (server, _) = listener.accept().unwrap();
        let table = table(None).unwrap();
        let client = &table[&inode(client.as_raw_fd())];
        assert_eq!((client.kind, client.listening, client.name.as_deref()), (UnixKind::Stream, false, None));
        let peer = &table[&client.peer.unwrap()];
        assert_eq!(peer.inode, inode(server.as_raw_fd()));
        assert_eq!(peer.name.as_deref(), path.to_str());
        assert!(table[&inode(listener.as_raw_fd())].listening);
    }
}
