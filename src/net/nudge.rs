//! Waking peers up after the network is unlocked.
//!
//! While it was locked a peer that had something to send waited longer and longer between its tries; it may now sleep
//! for as long again as the switch took. RFC 6069 is the cure, and Linux implements it (tcp_ld_RTO_revert): an ICMP
//! "host unreachable" that quotes the very segment that the peer is waiting for takes one doubling back, and lets it
//! send again at once when the shorter time is over. Such a message never ends an established connection (RFC 5927).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket};

use super::images::Dumped;
use super::{is_loopback, on_the_wire};

/// Doublings of the waiting time after which Linux gives a connection up by default (net.ipv4.tcp_retries2).
pub const ROUNDS: u32 = 15;
/// Between two messages to one peer: time to take the first one in.
const PAUSE: Duration = Duration::from_millis(2);

/// A segment that a peer may be waiting to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outstanding {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Its first sequence number: what the peer believes us to expect next.
    pub sequence: u32,
}

impl Outstanding {
    /// What the peer of a dumped connection may be waiting with: two candidates while an acknowledgement was delayed, and
    /// nothing for peers on this machine.
    pub fn of(connection: &Dumped) -> Vec<Self> {
        let (local, remote) = (on_the_wire(connection.local), on_the_wire(connection.remote));
        if is_loopback(remote.ip()) || remote.ip() == local.ip() {
            return Vec::new();
        }
        let mut sequences = vec![connection.acknowledged, connection.rcv_nxt];
        sequences.dedup();
        sequences.into_iter().map(|sequence| Self { local, remote, sequence }).collect()
    }
}

/// Sends each peer `rounds` messages ([`ROUNDS`] undoes any wait), from the network namespace of this process; gives
/// the number of segments for which every message went out. A peer that waits for nothing ignores them.
///
/// # Errors
/// When no raw socket can be had (CAP_NET_RAW).
pub fn nudge(segments: &[Outstanding], rounds: u32) -> Result<usize> {
    let v4 = open(segments.iter().any(|s| s.local.is_ipv4()), AddressFamily::Inet, SockProtocol::Icmp)?;
    let v6 = open(segments.iter().any(|s| s.local.is_ipv6()), AddressFamily::Inet6, SockProtocol::IcmpV6)?;
    let mut reached = vec![true; segments.len()];
    for round in 0..rounds {
        if round > 0 {
            sleep(PAUSE);
        }
        for (segment, reached) in segments.iter().zip(&mut reached) {
            let socket = if segment.local.is_ipv4() { &v4 } else { &v6 };
            if let (true, Some(socket)) = (*reached, socket)
                && let Err(e) = send(socket, segment)
            {
                tracing::debug!("cannot nudge {}: {e}", segment.remote);
                *reached = false;
            }
        }
    }
    Ok(reached.into_iter().filter(|r| *r).count())
}

fn open(wanted: bool, family: AddressFamily, protocol: SockProtocol) -> Result<Option<OwnedFd>> {
    let open = || socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
    wanted.then(open).transpose().context("cannot open a raw socket to wake peers up")
}

fn send(socket: &OwnedFd, segment: &Outstanding) -> nix::Result<()> {
    let Some(message) = message(segment) else { return Ok(()) };
    // The kernel chooses the source by the route, as it does for the connection's own packets. The port must be 0.
    let mut to = segment.remote;
    to.set_port(0);
    sendto(socket.as_raw_fd(), &message, &SockaddrStorage::from(to), MsgFlags::empty()).map(drop)
}

/// The ICMP or ICMPv6 message for `segment`; `None` where its ends are of two families.
pub fn message(segment: &Outstanding) -> Option<Vec<u8>> {
    // The peer's segment as it would have come in: from the peer, to us.
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(segment.remote.port().to_be_bytes());
    tcp.extend(segment.local.port().to_be_bytes());
    tcp.extend(segment.sequence.to_be_bytes());
    // No acknowledgement number is known; header length 5 words, flag ACK, and no more than that is looked at.
    tcp.extend([0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    match (segment.local.ip(), segment.remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => Some(unreachable_v4(local, remote, &tcp)),
        (IpAddr::V6(local), IpAddr::V6(remote)) => Some(unreachable_v6(local, remote, &tcp)),
        _ => None,
    }
}

/// RFC 792: type 3 (destination unreachable), code 1 (host unreachable).
fn unreachable_v4(local: Ipv4Addr, remote: Ipv4Addr, tcp: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, nix::libc::IPPROTO_TCP as u8, 0, 0];
    ip.extend(remote.octets());
    ip.extend(local.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut message = [&[3, 1, 0, 0, 0, 0, 0, 0], ip.as_slice(), tcp].concat();
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// RFC 4443: type 1 (destination unreachable), code 0 (no route). The checksum covers a pseudo header.
fn unreachable_v6(local: Ipv6Addr, remote: Ipv6Addr, tcp: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, tcp.len() as u8, nix::libc::IPPROTO_TCP as u8, 64];
    ip.extend(remote.octets());
    ip.extend(local.octets());
    let mut message = [&[1, 0, 0, 0, 0, 0, 0, 0], ip.as_slice(), tcp].concat();
    let length = (message.len() as u32).to_be_bytes();
    let tail = [0, 0, 0, nix::libc::IPPROTO_ICMPV6 as u8];
    let covered = [&local.octets()[..], &remote.octets(), &length, &tail, &message].concat();
    let sum = checksum(&covered);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// RFC 1071; 0 over data that holds its own checksum.
fn checksum(data: &[u8]) -> u16 {
    let words = data.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
#[path = "nudge_tests.rs"]
mod tests;
