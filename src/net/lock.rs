//! The network lock: an nftables table that drops every packet from and to the sockets of preserved units.
//!
//! Without it the new kernel answers a peer's segment with RST, since it knows no such connection yet. Dropped segments
//! are sent again by the peer. Loopback is covered too: a client on the same machine that comes up early finds a silent
//! server, and tries again, in place of a closed port. All of it is for the host's network namespace; units with one of
//! their own are alone in it.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::on_the_wire;

/// CRIU marks its own packets with it while a connection is locked (soccr.h, SOCCR_MARK).
const CRIU_MARK: u32 = 0xC114;
const TABLE: &str = "inet kup";

/// One TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

/// What is locked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// Local TCP ports, on every address: listeners, and with them the connections that they accepted.
    pub ports: BTreeSet<u16>,
    /// Connections that do not end at one of the ports: outgoing ones.
    pub connections: BTreeSet<Connection>,
}

impl LockSpec {
    /// A lock of `listeners` (their local addresses) and `connections`.
    pub fn new(
        listeners: impl IntoIterator<Item = SocketAddr>,
        connections: impl IntoIterator<Item = Connection>,
    ) -> Self {
        let ports: BTreeSet<u16> = listeners.into_iter().map(|l| l.port()).filter(|p| *p != 0).collect();
        let connections =
            connections.into_iter().map(|c| Connection { local: on_the_wire(c.local), remote: on_the_wire(c.remote) });
        let connections = connections.filter(|c| !ports.contains(&c.local.port())).collect();
        Self { ports, connections }
    }

    /// Whether there is nothing to lock.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.connections.is_empty()
    }

    /// Locks what either locks.
    pub fn merge(self, other: Self) -> Self {
        let ports: BTreeSet<u16> = self.ports.into_iter().chain(other.ports).collect();
        let connections = self.connections.into_iter().chain(other.connections);
        let connections = connections.filter(|c| !ports.contains(&c.local.port())).collect();
        Self { ports, connections }
    }
}

/// The nft(8) input that replaces the table by one for `spec`, in one transaction.
///
/// Priority -300 is before connection tracking and before every firewall that accepts. The input hook, not prerouting:
/// there a port is the local socket's own, also behind a port redirection.
pub fn ruleset(spec: &LockSpec) -> String {
    let v4: Vec<String> = spec.connections.iter().filter(|c| c.local.is_ipv4()).map(element).collect();
    let v6: Vec<String> = spec.connections.iter().filter(|c| c.local.is_ipv6()).map(element).collect();
    let ports: Vec<String> = spec.ports.iter().map(u16::to_string).collect();
    let sets = [
        ("ports", "inet_service", &ports, "tcp dport", "tcp sport"),
        (
            "connections4",
            "ipv4_addr . inet_service . ipv4_addr . inet_service",
            &v4,
            "ip daddr . tcp dport . ip saddr . tcp sport",
            "ip saddr . tcp sport . ip daddr . tcp dport",
        ),
        (
            "connections6",
            "ipv6_addr . inet_service . ipv6_addr . inet_service",
            &v6,
            "ip6 daddr . tcp dport . ip6 saddr . tcp sport",
            "ip6 saddr . tcp sport . ip6 daddr . tcp dport",
        ),
    ];
    let (mut declared, mut input, mut output) = (String::new(), String::new(), String::new());
    for (name, kind, elements, from_peer, to_peer) in sets.iter().filter(|s| !s.2.is_empty()) {
        let elements = elements.join(",\n\t\t\t");
        declared += &format!("\tset {name} {{\n\t\ttype {kind}\n\t\telements = {{\n\t\t\t{elements}\n\t\t}}\n\t}}\n");
        input += &format!("\t\t{from_peer} @{name} drop\n");
        output += &format!("\t\t{to_peer} @{name} drop\n");
    }
    let chain = |hook: &str, rules: &str| {
        format!(
            "\tchain {hook} {{\n\t\ttype filter hook {hook} priority -300; policy accept;\n\
             \t\tmeta mark {CRIU_MARK:#x} accept\n{rules}\t}}\n"
        )
    };
    format!("{}table {TABLE} {{\n{declared}{}{}}}\n", remove_table(), chain("input", &input), chain("output", &output))
}

/// Our end first, as in the sets' types.
fn element(c: &Connection) -> String {
    let ip = |ip: IpAddr| ip.to_string();
    format!("{} . {} . {} . {}", ip(c.local.ip()), c.local.port(), ip(c.remote.ip()), c.remote.port())
}

/// Deleting a table that is not there is an error, adding one that is there is none.
fn remove_table() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

/// Locks the network namespace of this process for `spec`, in place of what was locked before.
///
/// # Errors
/// When nft is not installed or refuses; what was locked before is then still locked, and nothing else.
pub fn lock(spec: &LockSpec) -> Result<()> {
    nft(&ruleset(spec), &[]).context("cannot lock the network")
}

/// Takes the lock away; none there is fine.
///
/// # Errors
/// When nft is not installed or refuses.
pub fn unlock() -> Result<()> {
    nft(&remove_table(), &[]).context("cannot unlock the network; try: nft delete table inet kup")
}

/// Has nft(8) carry out `input` as one transaction.
fn nft(input: &str, options: &[&str]) -> Result<()> {
    let mut child = Command::new("nft")
        .args(options)
        .args(["-f", "-"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft; install the package nftables")?;
    let mut stdin = child.stdin.take().context("nft has no input")?;
    // nft reads all of its input before it says anything, so this cannot block for good; if it died, its words say why.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for nft")?;
    if !output.status.success() {
        bail!("nft failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    written.context("cannot write to nft")
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
