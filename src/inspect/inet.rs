//! Sockets other than unix ones, from the tables in /proc/PID/net.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{InspectError, read_text};
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

fn parse(text: &str, protocol: Protocol) -> impl Iterator<Item = InetSocket> {
    text.lines().skip(1).filter_map(move |line| {
        // sl local rem st tx:rx tr:when retrnsmt uid timeout inode …
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        Some(InetSocket {
            inode: fields.get(9)?.parse().ok()?,
            protocol,
            local: address(fields.get(1)?)?,
            remote: address(fields.get(2)?)?,
            state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
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
    #[cfg(target_endian = "little")]
    fn v6() {
        let mapped = address("0000000000000000FFFF00000A02000A:0050").unwrap();
        assert_eq!(mapped, "[::ffff:10.0.2.10]:80".parse().unwrap());
        let socket = InetSocket { inode: 1, protocol: Protocol::Tcp, local: mapped, remote: mapped, state: 1 };
        assert_eq!(socket.bound_address(), Some("10.0.2.10".parse().unwrap()));
        assert_eq!(address("B80D01200000000000000000010000 00:0"), None);
    }
}
