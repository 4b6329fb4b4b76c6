//! Does it talk over unix sockets to processes that will not be there?

use std::collections::BTreeSet;

use super::{Finding, View};
use crate::inspect::{JOURNAL_STDOUT, UnixKind, UnixSocket};
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let inside: BTreeSet<u64> = view.procs.sockets().map(|(_, _, inode, _)| inode).collect();
    let sockets = view.procs.unix_sockets();
    let outside: Vec<&UnixSocket> =
        sockets.into_iter().filter(|s| s.peer.is_some_and(|p| !inside.contains(&p))).collect();
    let name =
        |s: &UnixSocket| view.procs.peer_name(s).or(s.name.as_deref()).unwrap_or("a socket without a name").to_string();
    let (mut bus, mut peers, mut datagrams) = (Vec::new(), Vec::new(), Vec::new());
    for socket in outside {
        let peer = view.procs.peer_name(socket);
        match socket.kind {
            UnixKind::Stream if peer == Some(JOURNAL_STDOUT) => {}
            UnixKind::Stream | UnixKind::SeqPacket if peer.is_some_and(is_bus) => bus.push(name(socket)),
            UnixKind::Stream | UnixKind::SeqPacket => peers.push(name(socket)),
            UnixKind::Datagram if peer.is_none() => peers.push(name(socket)),
            UnixKind::Datagram if !peer.is_some_and(is_systemd) => datagrams.push(name(socket)),
            UnixKind::Datagram => {}
        }
    }
    let mut found = Vec::new();
    if !view.procs.from_host.is_empty() {
        let apart = view.procs.from_host.iter().filter_map(|i| view.procs.unix.get(i));
        let apart =
            names(apart.map(|s| view.procs.peer_name(s).map_or_else(|| name(s), |p| format!("its end of {p}"))));
        let message = format!(
            "{apart} belongs to the machine's network namespace, and CRIU, which works inside the unit's own one, cannot \
             find it there"
        );
        let fix = "set StandardOutput= and StandardError= to a file (append:PATH), or RestrictAddressFamilies=AF_UNIX in \
                   the place of PrivateNetwork=yes, and restart it";
        found.push(Finding::blocker("sockets.network-namespace", message).fix(fix));
    }
    if !bus.is_empty() {
        let message = format!("it is connected to D-Bus ({}), which would not know it again", names(bus));
        found.push(Finding::blocker("sockets.dbus", message));
    }
    if !peers.is_empty() {
        let message = format!("it has connections to other processes on this machine ({})", names(peers));
        let fix = "end those connections, or use TCP, which the other end can lose and make again";
        found.push(Finding::blocker("sockets.unix-peer", message).fix(fix));
    }
    if !datagrams.is_empty() {
        let message =
            format!("{} must be there when it is restored: order it After= the service behind", names(datagrams));
        found.push(Finding::warning("sockets.unix-datagram", message));
    }
    found
}

/// The system bus, session buses, and the abstract names that they can have.
fn is_bus(name: &str) -> bool {
    name.ends_with("/dbus/system_bus_socket")
        || (name.starts_with("/run/user/") && name.ends_with("/bus"))
        || name.starts_with("@/tmp/dbus-")
        || name == "/run/systemd/private"
}

/// Sockets that PID 1 and journald have before anything is restored.
fn is_systemd(name: &str) -> bool {
    name.starts_with("/run/systemd/") || matches!(name, "/dev/log" | "/run/initctl")
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;

    #[test]
    fn peers() {
        use UnixKind::*;
        for (kind, peer, want) in [
            (Stream, Some(JOURNAL_STDOUT), &[][..]),
            (Stream, Some("/run/dbus/system_bus_socket"), &["sockets.dbus"]),
            (Stream, Some("/run/user/1000/bus"), &["sockets.dbus"]),
            (Stream, Some("/run/mysqld/mysqld.sock"), &["sockets.unix-peer"]),
            (Stream, None, &["sockets.unix-peer"]),
            (SeqPacket, Some("/run/x"), &["sockets.unix-peer"]),
            (Datagram, Some("/run/systemd/journal/dev-log"), &[]),
            (Datagram, Some("/run/other"), &["sockets.unix-datagram"]),
            (Datagram, None, &["sockets.unix-peer"]),
        ] {
            assert_eq!(Unit::new().unix(kind, peer).ids(ask), want, "{kind:?} {peer:?}");
        }
    }

    #[test]
    fn the_journal_from_a_private_network() {
        let mut unit = Unit::new().unix(UnixKind::Stream, Some(JOURNAL_STDOUT)).own(crate::inspect::Namespace::Net);
        assert!(unit.procs.from_host.insert(1000));
        let found = unit.ask(ask);
        assert_eq!(found[0].id, "sockets.network-namespace");
        assert!(found[0].message.contains(JOURNAL_STDOUT), "{}", found[0].message);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn pairs_inside_are_fine() {
        let mut unit = Unit::new().unix(UnixKind::Stream, None).unix(UnixKind::Stream, None);
        for (a, b) in [(1000, 1001), (1001, 1000)] {
            unit.procs.unix.get_mut(&a).unwrap().peer = Some(b);
        }
        assert!(unit.ids(ask).is_empty());
    }
}
