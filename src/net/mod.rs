//! The network over the switch: nothing reaches a restored socket, and nothing answers in its place, before it is there.

pub mod addresses;
pub mod images;
pub mod links;
pub mod lock;
pub mod nudge;
pub mod repair;

use std::net::{IpAddr, SocketAddr};

/// `::ffff:10.0.0.1` is IPv4 on the wire.
pub(crate) fn on_the_wire(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether packets to it never leave the machine.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// A network namespace of its own for the calling test's thread, with lo up; `false`, visibly, where that is impossible.
#[cfg(test)]
fn own_namespace() -> bool {
    let able = nix::unistd::geteuid().is_root()
        && nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok()
        && std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|s| s.success())
        && std::process::Command::new("nft")
            .arg("--version")
            .stdout(std::process::Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
    if !able {
        eprintln!("SKIPPED: needs root, network namespaces, ip and nft");
    }
    able
}
