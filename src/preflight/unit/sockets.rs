//! Does it hold sockets of families that cannot be brought back, or whose content is lost?

use super::{Finding, View};
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let protocols: Vec<&str> = view.procs.sockets().map(|(.., protocol)| protocol).collect();
    let any = |kinds: &[&str]| protocols.iter().any(|p| kinds.contains(p));
    let mut found = Vec::new();
    if any(&["PACKET"]) {
        let message = "it has a packet socket, bound to a network device that the new kernel makes anew";
        found.push(Finding::blocker("sockets.packet", message));
    }
    let other: Vec<_> = protocols.iter().filter(|p| !is_known(p)).map(|p| p.to_string()).collect();
    if !other.is_empty() {
        let message = format!("it has sockets of a family that CRIU does not know: {}", names(other));
        let mut finding = Finding::blocker("sockets.family", message);
        if any(&["MPTCP", "MPTCPv6"]) {
            finding = finding.fix("switch MPTCP off: in Go with Environment=GODEBUG=multipathtcp=0");
        }
        found.push(finding);
    }
    let changed: Vec<&str> = view.procs.inet.iter().flat_map(|s| &s.transforms).map(String::as_str).collect();
    if !changed.is_empty() {
        let message =
            format!("the kernel changes the data of its TCP sockets ({}), and would not go on", names(changed));
        let fix = "let the program do that itself; for TLS switch kTLS off (OpenSSL: Options = -KTLS)";
        found.push(Finding::blocker("sockets.transform", message).fix(fix));
    }
    // What CRIU says in a warning only ("Read queue is dropped"), or not at all.
    if any(&["NETLINK"]) {
        let message = "what the kernel had to tell on its netlink sockets in the meantime is lost";
        found.push(Finding::note("sockets.netlink", message));
    }
    if any(&["UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6"]) {
        found.push(Finding::note(
            "sockets.udp",
            "datagrams that it has not read yet, and those of the meantime, are lost",
        ));
    }
    let local = view.procs.inet.iter().filter(|s| s.is_connected() && is_local(view, s.remote.ip()));
    let outside = local.filter(|s| !view.procs.inet.iter().any(|o| o.is_connected() && o.local == s.remote));
    let outside: Vec<_> = outside.map(|s| s.remote.to_string()).collect();
    if !outside.is_empty() {
        let message = format!(
            "the other end of {} TCP connections is on this machine: they end unless it is preserved too ({})",
            outside.len(),
            names(outside)
        );
        found.push(Finding::note("sockets.local-peer", message));
    }
    found
}

/// The kernel's names of the protocols that CRIU takes; of netlink and unix sockets their own questions ask.
fn is_known(protocol: &str) -> bool {
    const KNOWN: [&str; 12] = [
        "TCP",
        "TCPv6",
        "UDP",
        "UDPv6",
        "UDP-Lite",
        "UDPLITEv6",
        "RAW",
        "RAWv6",
        "PING",
        "PINGv6",
        "NETLINK",
        "PACKET",
    ];
    KNOWN.contains(&protocol) || protocol.starts_with("UNIX")
}

fn is_local(view: &View, ip: std::net::IpAddr) -> bool {
    ip.to_canonical().is_loopback() || view.procs.addresses().contains(&ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;
    use crate::inspect::{InetSocket, Protocol};

    #[test]
    fn families() {
        for (protocol, want) in [
            ("TCP", &[][..]),
            ("TCPv6", &[]),
            ("UNIX-STREAM", &[]),
            ("UDP", &["sockets.udp"]),
            ("NETLINK", &["sockets.netlink"]),
            ("PACKET", &["sockets.packet"]),
            ("AF_VSOCK", &["sockets.family"]),
            ("SCTP", &["sockets.family"]),
            ("ALG", &["sockets.family"]),
        ] {
            assert_eq!(Unit::new().socket(protocol).ids(ask), want, "{protocol}");
        }
        assert!(Unit::new().socket("MPTCP").ask(ask)[0].fix.contains("GODEBUG"));
    }

    #[test]
    fn local_peers() {
        let socket = |inode, local: &str, remote: &str| InetSocket {
            inode,
            protocol: Protocol::Tcp,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            state: 1,
            transforms: Vec::new(),
        };
        let with = |sockets: Vec<InetSocket>| {
            let mut unit = Unit::new().socket("TCP");
            unit.procs.inet = sockets;
            unit.ids(ask)
        };
        let a = || socket(1, "127.0.0.1:80", "127.0.0.1:4000");
        assert_eq!(with(vec![a()]), ["sockets.local-peer"]);
        assert!(with(vec![a(), socket(2, "127.0.0.1:4000", "127.0.0.1:80")]).is_empty(), "both ends are its own");
        assert!(with(vec![socket(1, "10.0.0.1:80", "10.0.0.2:4000")]).is_empty());
        assert_eq!(with(vec![socket(1, "10.0.0.1:80", "10.0.0.1:4000")]), ["sockets.local-peer"]);
        let tls = InetSocket { transforms: vec!["tls".into()], ..socket(1, "10.0.0.1:443", "10.0.0.2:4000") };
        assert_eq!(with(vec![tls]), ["sockets.transform"]);
    }
}
