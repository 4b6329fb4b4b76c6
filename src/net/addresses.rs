//! Waiting for the addresses that restored sockets are bound to, and for the routes to their peers.
//!
//! CRIU binds and connects each socket again. bind(2) needs the address, connect(2) a route, also in repair mode where
//! no packet is sent.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::is_loopback;
use super::lock::Connection;

const INTERVAL: Duration = Duration::from_millis(20);
/// `linux/if_addr.h`: IFA_F_DADFAILED and IFA_F_TENTATIVE; neither can be bound to.
const UNUSABLE: u32 = 0x08 | 0x40;

/// Waits until each of `wanted` can be bound to, at most `timeout`; gives those that are still missing then.
///
/// # Errors
/// When the addresses of this network namespace cannot be read.
pub fn wait(wanted: &[IpAddr], timeout: Duration) -> Result<Vec<IpAddr>> {
    let begin = Instant::now();
    loop {
        let present = Present::read()?;
        let missing: Vec<IpAddr> = wanted.iter().copied().filter(|ip| !present.has(*ip)).collect();
        if missing.is_empty() || begin.elapsed() >= timeout {
            return Ok(missing);
        }
        sleep(INTERVAL);
    }
}

/// Waits until there is a route from each connection's own address to its peer, at most `timeout`; gives the connections
/// that have none then. No packet is sent.
pub fn wait_for_routes(connections: &[Connection], timeout: Duration) -> Vec<Connection> {
    let begin = Instant::now();
    // One of each pair of addresses is enough, however many connections there are.
    let mut pairs = BTreeSet::new();
    let mut missing: Vec<Connection> =
        connections.iter().copied().filter(|c| pairs.insert((c.local.ip(), c.remote.ip()))).collect();
    loop {
        missing.retain(|c| !has_route(c));
        if missing.is_empty() || begin.elapsed() >= timeout {
            return missing;
        }
        sleep(INTERVAL);
    }
}

/// connect(2) on a datagram socket looks up the route, and does nothing else.
fn has_route(c: &Connection) -> bool {
    // Port 0 in place of the connection's own, which may be taken; the scope of a link-local address stays.
    let mut local = c.local;
    local.set_port(0);
    UdpSocket::bind(local).is_ok_and(|s| s.connect(SocketAddr::new(c.remote.ip(), c.remote.port().max(1))).is_ok())
}

/// The addresses that can be bound to.
#[derive(Debug, Default)]
struct Present {
    addresses: BTreeSet<IpAddr>,
    loopback_up: bool,
}

impl Present {
    fn read() -> Result<Self> {
        let mut present = Self::default();
        for interface in getifaddrs().context("cannot read the network addresses of this machine")? {
            if !interface.flags.contains(InterfaceFlags::IFF_UP) {
                continue;
            }
            present.loopback_up |= interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            let Some(address) = interface.address else { continue };
            if let Some(v4) = address.as_sockaddr_in() {
                present.addresses.insert(v4.ip().into());
            } else if let Some(v6) = address.as_sockaddr_in6() {
                present.addresses.insert(v6.ip().into());
            }
        }
        // getifaddrs(3) does not tell an address that is still being probed for duplicates.
        let table = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
        for unusable in unusable(&table) {
            present.addresses.remove(&unusable.into());
        }
        Ok(present)
    }

    fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_unspecified() || is_loopback(ip) { self.loopback_up } else { self.addresses.contains(&ip) }
    }
}

/// Addresses in a /proc/net/if_inet6 table that cannot be used (yet).
fn unusable(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| {
        // Address, interface index, prefix length, scope, flags, name; all but the name hexadecimal.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(4)?, 16).ok()?;
        let address = u128::from_str_radix(fields.first()?, 16).ok()?;
        (flags & UNUSABLE != 0).then(|| address.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn what_is_there_and_what_is_not() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let absent = [ip("192.0.2.77"), ip("2001:db8::77")];
        let wanted =
            [ip("127.0.0.1"), ip("0.0.0.0"), ip("::"), ip("127.3.2.1"), ip("::ffff:127.0.0.1"), absent[0], absent[1]];
        let begin = Instant::now();
        assert_eq!(wait(&wanted, SHORT).unwrap(), absent);
        assert!(begin.elapsed() >= SHORT);
        assert_eq!(wait(&wanted[..5], Duration::from_secs(60)).unwrap(), [] as [IpAddr; 0], "at once");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn routes() {
        let to =
            |local: &str, remote: &str| Connection { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        let here = to("127.0.0.1:80", "127.0.0.2:4000");
        let nowhere = to("192.0.2.77:80", "192.0.2.78:4000");
        assert_eq!(wait_for_routes(&[here], SHORT), []);
        assert_eq!(wait_for_routes(&[here, nowhere, nowhere], SHORT), [nowhere]);
    }

    #[test]
    fn an_address_that_is_being_probed_is_not_there() {
        let table = "fd000000000000000000000000000002 02 40 00 80     eth0\n\
                     fe80000000000000505400fffe123456 02 40 20 c0     eth0\n\
                     fd000000000000000000000000000003 02 40 00 88     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n\nbroken line\n";
        let found: Vec<String> = unusable(table).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["fe80::5054:ff:fe12:3456", "fd00::3"]);
    }
}
