//! Sockets other than unix ones, from the tables in /proc/PID/net.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};

use super::{InspectError, diag, read_text};
use crate::paths::Paths;

/// Which table a socket was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP.
    Udp,
    /// UDP-Lite.
    UdpLite,
    /// Raw IP; the "port" is the protocol number.
    Raw,
}

/// An internet socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InetSocket {
    /// Its inode, as its descriptor has it.
    pub inode: u64,
    /// Which protocol.
    pub protocol: Protocol,
    /// Own address.
    pub local: SocketAddr,
    /// The peer's; port 0 where there is none.
    pub remote: SocketAddr,
    /// State number, as in the kernel's tcp_states.h.
    pub state: u8,
    /// What the kernel does to the data on its way: `tls` (and other upper layers), `md5` (signatures). CRIU knows none
    /// of it.
    pub transforms: Vec<String>,
}

impl InetSocket {
    /// A TCP listener.
    pub fn is_listening(&self) -> bool {
        self.protocol == Protocol::Tcp && self.state == 10
    }

    /// A TCP connection that has a peer: established, or half closed.
    pub fn is_connected(&self) -> bool {
        self.protocol == Protocol::Tcp && !matches!(self.state, 6 | 7 | 10)
    }

    /// The local address that must be there before a bound socket can be restored; `None` for "any address".
    pub fn bound_address(&self) -> Option<IpAddr> {
        let ip = match self.local.ip() {
            // A v4-mapped address needs the v4 address.
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
            v4 => v4,
        };
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    }
}

/// INET_DIAG_MD5SIG and INET_DIAG_ULP_INFO of linux/inet_diag.h; the kernel tells them to CAP_NET_ADMIN only.
const MD5SIG: u16 = 18;
const ULP_INFO: u16 = 19;

/// [`InetSocket::transforms`] of the TCP sockets of a network namespace, by inode; those without any are left out.
pub(super) fn transforms(netns: Option<&Path>) -> Result<BTreeMap<u64, Vec<String>>, InspectError> {
    let request = |family, socket_id| {
        // Without INET_DIAG_INFO the kernel leaves these attributes out too.
        let (extensions, states) = (ExtensionFlags::INFO, StateFlags::all());
        SockDiagMessage::InetRequest(InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id })
    };
    let requests = vec![request(AF_INET, SocketId::new_v4()), request(AF_INET6, SocketId::new_v6())];
    Ok(diag::ask(netns, requests, transformed)?.into_iter().collect())
}

/// Inode and transforms of the socket that an answer tells of, where it has any.
pub fn transformed(message: SockDiagMessage) -> Option<(u64, Vec<String>)> {
    let SockDiagMessage::InetResponse(response) = message else { return None };
    let found: Vec<String> = response.nlas.iter().filter_map(transform).collect();
    (!found.is_empty()).then_some((response.header.inode.into(), found))
}

fn transform(nla: &Nla) -> Option<String> {
    let Nla::Other(other) = nla else { return None };
    let mut value = vec![0; other.value_len()];
    other.emit_value(&mut value);
    match other.kind() & 0x3fff {
        MD5SIG => Some("md5".into()),
        ULP_INFO => Some(upper_layer(&value).unwrap_or_else(|| "ulp".into())),
        _ => None,
    }
}

/// The attribute INET_ULP_INFO_NAME (1), a string, is the first one inside; length and kind precede it.
fn upper_layer(value: &[u8]) -> Option<String> {
    let length = u16::from_ne_bytes(value.get(..2)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(value.get(2..4)?.try_into().ok()?);
    let name = value.get(4..usize::from(length)).filter(|_| kind == 1)?;
    Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_string())
}

/// All internet sockets of the network namespace of `pid`.
pub(super) fn table(paths: &Paths, pid: i32) -> Result<Vec<InetSocket>, InspectError> {
    let files = [
        ("tcp", Protocol::Tcp),
        ("tcp6", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("udp6", Protocol::Udp),
        ("udplite", Protocol::UdpLite),
        ("udplite6", Protocol::UdpLite),
        ("raw", Protocol::Raw),
        ("raw6", Protocol::Raw),
    ];
    let mut found = Vec::new();
    for (name, protocol) in files {
        match read_text(&paths.at(format!("/proc/{pid}/net/{name}"))) {
            Ok(text) => found.extend(parse(&text, protocol)),
            // IPv6 may be switched off, UDP-Lite is gone from newer kernels.
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// The sockets in one of these tables; lines of another form are left out.
pub fn parse(text: &str, protocol: Protocol) -> impl Iterator<Item = InetSocket> {
    text.lines().skip(1).filter_map(move |line| {
        // sl local rem st tx:rx tr:when retrnsmt uid timeout inode …
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(InetSocket {
            inode: fields.get(9)?.parse().ok()?,
            protocol,
            local: address(fields.get(1)?)?,
            remote: address(fields.get(2)?)?,
            state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
            transforms: Vec::new(),
        })
    })
}

/// `0100007F:1F90`: the address is printed as 32-bit words in the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| Some(u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn tcp() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 20017 1 0 100 0 0 10 0
   1: 0A00020F:2BCB 0202000A:A3C4 01 00000000:00000000 02:0009 00000000   0        0 20018 2 0 20 4 30 10 -1
";
        let found: Vec<_> = parse(text, Protocol::Tcp).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].local, "127.0.0.1:8080".parse().unwrap());
        assert!(found[0].is_listening() && !found[0].is_connected());
        assert_eq!(found[0].bound_address(), None);
        assert_eq!((found[0].inode, found[1].inode), (20017, 20018));
        assert_eq!(found[1].remote, "10.0.2.2:41924".parse().unwrap());
        assert!(found[1].is_connected());
    }

    #[test]
    fn upper_layers() {
        use netlink_packet_core::DefaultNla;
        // ss(8) of a kTLS socket shows this as "tcp-ulp-tls".
        let mut bytes = 8_u16.to_ne_bytes().to_vec();
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(b"tls\0");
        bytes.extend([0; 12]);
        let nla = |kind, bytes: &[u8]| transform(&Nla::Other(DefaultNla::new(kind, bytes.to_vec())));
        assert_eq!(nla(0x8000 | ULP_INFO, &bytes).as_deref(), Some("tls"));
        assert_eq!(nla(ULP_INFO, &bytes[..3]).as_deref(), Some("ulp"));
        assert_eq!(nla(MD5SIG, &[]).as_deref(), Some("md5"));
        assert_eq!(nla(16, &bytes), None);
        assert_eq!(transform(&Nla::Mark(1)), None);
    }

    #[test]
    fn plain_sockets_are_plain() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(transforms(None).unwrap(), BTreeMap::new());
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn v6() {
        let mapped = address("0000000000000000FFFF00000A02000A:0050").unwrap();
        assert_eq!(mapped, "[::ffff:10.0.2.10]:80".parse().unwrap());
        let socket = InetSocket {
            inode: 1,
            protocol: Protocol::Tcp,
            local: mapped,
            remote: mapped,
            state: 1,
            transforms: Vec::new(),
        };
        assert_eq!(socket.bound_address(), Some("10.0.2.10".parse().unwrap()));
        assert_eq!(address("B80D01200000000000000000010000 00:0"), None);
    }
}
