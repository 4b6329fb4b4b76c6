use super::*;
use crate::net::lock::{LockSpec, lock, unlock};
use crate::net::own_namespace;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

fn segment(local: &str, remote: &str) -> Outstanding {
    Outstanding { local: local.parse().unwrap(), remote: remote.parse().unwrap(), sequence: 0x0102_0304 }
}

#[test]
fn icmp() {
    let m = message(&segment("10.9.0.2:11211", "10.9.0.1:50000")).unwrap();
    assert_eq!((m.len(), m[0], m[1], checksum(&m)), (48, 3, 1, 0));
    let quoted = &m[8..];
    assert_eq!((checksum(&quoted[..20]), quoted[9], quoted[3]), (0, 6, 40));
    assert_eq!((&quoted[12..16], &quoted[16..20]), (&[10, 9, 0, 1][..], &[10, 9, 0, 2][..]), "from the peer to us");
    assert_eq!(quoted[20..28], [0xc3, 0x50, 0x2b, 0xcb, 1, 2, 3, 4]);
}

#[test]
fn icmpv6() {
    let (local, remote) = ("fd00::2", "fd00::1");
    let m = message(&segment("[fd00::2]:80", "[fd00::1]:50000")).unwrap();
    assert_eq!((m.len(), m[0], m[1]), (68, 1, 0));
    let octets = |ip: &str| ip.parse::<Ipv6Addr>().unwrap().octets();
    let pseudo = [&octets(local)[..], &octets(remote), &[0, 0, 0, 68, 0, 0, 0, 58]].concat();
    assert_eq!(checksum(&[pseudo, m.clone()].concat()), 0);
    assert_eq!((&m[16..32], &m[32..48]), (&octets(remote)[..], &octets(local)[..]));
    assert_eq!(m[48..56], [0xc3, 0x50, 0, 80, 1, 2, 3, 4]);
}

#[test]
fn the_checksum_of_rfc_1071() {
    assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    assert_eq!(checksum(&[0xff]), 0x00ff);
    assert!(message(&segment("10.9.0.2:1", "[fd00::1]:1")).is_none());
}

#[test]
fn who_is_nudged() {
    let dumped = |local: &str, remote: &str, acknowledged| Dumped {
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        rcv_nxt: 7,
        acknowledged,
    };
    let sequences = |d| Outstanding::of(&d).iter().map(|o| o.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(dumped("10.0.0.2:80", "10.0.0.1:1", 7)), [7]);
    assert_eq!(sequences(dumped("[::ffff:10.0.0.2]:80", "[::ffff:10.0.0.1]:1", 5)), [5, 7]);
    assert_eq!(sequences(dumped("127.0.0.1:80", "127.0.0.1:1", 7)), [0; 0]);
    assert_eq!(sequences(dumped("10.0.0.2:80", "10.0.0.2:1", 7)), [0; 0]);
}

/// The sequence number of the SYN that `raw`, opened before, saw from the port `from`.
fn initial_sequence(raw: &OwnedFd, from: SocketAddr) -> u32 {
    let mut packet = [0; 256];
    loop {
        let length = nix::sys::socket::recv(raw.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        // Raw IPv4 sockets see the IP header, IPv6 ones do not.
        let tcp = &packet[if from.is_ipv4() { 20 } else { 0 }..length];
        if tcp[..2] == from.port().to_be_bytes() && tcp[13] & 0x12 == 0x02 {
            return u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        }
    }
}

/// How often `client` has sent its first unacknowledged segment again.
fn retransmits(client: SocketAddr) -> u32 {
    let table = if client.is_ipv4() { "tcp" } else { "tcp6" };
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let port = format!(":{:04X}", client.port());
    let line = text.lines().find(|l| l.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port))).unwrap();
    u32::from_str_radix(line.split_whitespace().nth(6).unwrap(), 16).unwrap()
}

/// A real Linux peer whose next try is 3.2 s away sends again at once.
fn a_waiting_peer_wakes_up(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    let local = listener.local_addr().unwrap();
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp).unwrap();
    let mut client = TcpStream::connect(local).unwrap();
    let remote = client.local_addr().unwrap();
    let mut server = listener.accept().unwrap().0;
    let sequence = initial_sequence(&raw, remote).wrapping_add(1);

    lock(&LockSpec::new([local], [])).unwrap();
    client.write_all(b"x").unwrap();
    while retransmits(remote) < 4 {
        sleep(Duration::from_millis(10));
    }
    unlock().unwrap();
    let unlocked = Instant::now();
    // With a wrong number nothing happens, and nothing breaks.
    nudge(&[Outstanding { local, remote, sequence: sequence.wrapping_add(1) }], ROUNDS).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    assert!(server.read(&mut [0]).is_err(), "the peer must still be waiting");
    assert_eq!(nudge(&[Outstanding { local, remote, sequence }], ROUNDS).unwrap(), 1);
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 1);
    let waited = unlocked.elapsed();
    assert!(waited < Duration::from_millis(1800), "the peer took {waited:?}");
    server.write_all(b"y").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 1, "the connection lives");
}

#[test]
fn a_waiting_peer_wakes_up_v4() {
    if own_namespace() {
        a_waiting_peer_wakes_up("127.0.0.1:0");
    }
}

#[test]
fn a_waiting_peer_wakes_up_v6() {
    if own_namespace() {
        a_waiting_peer_wakes_up("[::1]:0");
    }
}
