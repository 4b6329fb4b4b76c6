//! Addresses and routes of links over the switch, so that a restore need not wait for systemd-networkd.
//!
//! Only of links that networkd has configured with addresses that do not expire: it finds them as it would have made them,
//! and keeps them. What comes from a server (DHCP, router advertisements) it would take away and ask for again.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::command::feed;
use crate::paths::Paths;

/// Name of the file beside the images that holds the links.
pub const LINKS: &str = "links.json";
/// "forever", as the kernel says it of an address.
const FOREVER: u64 = u32::MAX as u64;

/// A link, and how it is put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Lines for `ip -batch`.
    pub batch: Vec<String>,
}

/// As `ip -j address` tells it.
#[derive(Debug, Deserialize)]
struct Shown {
    ifindex: u32,
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    local: Option<IpAddr>,
    /// The other end, where it is point-to-point.
    address: Option<IpAddr>,
    prefixlen: u8,
    broadcast: Option<IpAddr>,
    scope: String,
    valid_life_time: u64,
}

/// As `ip -j route` tells it.
#[derive(Debug, Deserialize)]
struct Route {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
    protocol: Option<String>,
    scope: Option<String>,
    prefsrc: Option<IpAddr>,
    metric: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
    /// What else it has; the kernel's defaults are not told.
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

/// What a route may have besides, and is as good without.
const NEGLIGIBLE: [&str; 3] = ["pref", "metrics", "expires"];

/// The links of this network namespace that can be put back.
///
/// # Errors
/// When ip(8) is not installed, or its words make no sense.
pub fn look(paths: &Paths) -> Result<Vec<Link>> {
    let states = paths.at("/run/systemd/netif/links");
    let managed = |index: u32| is_managed(&fs::read_to_string(states.join(index.to_string())).unwrap_or_default());
    let routes = |family| ip(&["-j", family, "route"], "");
    links(&ip(&["-j", "address"], "")?, &routes("-4")?, &routes("-6")?, &managed)
}

/// Puts back those of `links` that are there, by name and hardware address, and that nobody has brought up. What cannot be
/// put back is networkd's to do.
///
/// # Errors
/// When ip(8) is not installed, or refuses a line; the others hold.
pub fn put_back(paths: &Paths, links: &[Link]) -> Result<()> {
    let present: Vec<Shown> = parse(&ip(&["-j", "address"], "")?)?;
    let is_there = |link: &Link| {
        let same = |p: &Shown| p.ifname == link.name && p.address == link.mac && !p.flags.iter().any(|f| f == "UP");
        present.iter().any(same)
    };
    let (there, missing): (Vec<&Link>, Vec<&Link>) = links.iter().partition(|link| is_there(link));
    for link in missing {
        tracing::info!("{} is not there yet, or up already: it is left to networkd", link.name);
    }
    for link in &there {
        // As networkd has it: the kernel is not to take addresses from routers by itself.
        let accept = paths.at(format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name));
        if let Err(e) = fs::write(&accept, "0") {
            tracing::debug!("{}: {e}", accept.display());
        }
    }
    let batch: Vec<&str> = there.iter().flat_map(|link| &link.batch).map(String::as_str).collect();
    if !batch.is_empty() {
        ip(&["-force", "-batch", "-"], &(batch.join("\n") + "\n"))?;
    }
    Ok(())
}

/// Reads what was saved at `path`.
///
/// # Errors
/// When it cannot be read.
pub fn load(path: &Path) -> Result<Vec<Link>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

fn ip(args: &[&str], input: &str) -> Result<String> {
    let output = feed(Command::new("ip").args(args), input.as_bytes()).context("the package iproute2 has ip")?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    // Nothing to tell is no list at all in some versions.
    let text = if text.trim().is_empty() { "[]" } else { text };
    serde_json::from_str(text).context("ip tells something that kup does not know")
}

/// networkd's state of a link (networkctl(1), ADMIN_STATE).
fn is_managed(state: &str) -> bool {
    state.lines().any(|line| line == "ADMIN_STATE=configured")
}

/// The links that can be put back, from ip's words.
fn links(addresses: &str, v4: &str, v6: &str, managed: &dyn Fn(u32) -> bool) -> Result<Vec<Link>> {
    let shown: Vec<Shown> = parse(addresses)?;
    let (mut routes, mut v6): (Vec<Route>, Vec<Route>) = (parse(v4)?, parse(v6)?);
    v6.iter_mut().filter(|r| r.dst == "default").for_each(|r| r.dst = "::/0".into());
    routes.append(&mut v6);
    let wanted = shown.into_iter().filter(|s| managed(s.ifindex) && is_static(s));
    Ok(wanted.map(|s| Link { batch: batch(&s, &routes), name: s.ifname, mac: s.address }).collect())
}

/// Has it addresses, and none that expires, and none that is point-to-point?
fn is_static(link: &Shown) -> bool {
    let mut global = link.addr_info.iter().filter(|a| a.scope != "link").peekable();
    global.peek().is_some() && global.all(|a| a.valid_life_time == FOREVER && a.local.is_some() && a.address.is_none())
}

fn batch(link: &Shown, routes: &[Route]) -> Vec<String> {
    let name = &link.ifname;
    let mut lines = Vec::new();
    let link_local = |a: &Address| a.scope == "link" && a.local.is_some_and(|ip| ip.is_ipv6());
    if !link.addr_info.iter().any(link_local) {
        lines.push(format!("link set dev {name} addrgenmode none"));
    }
    lines.push(format!("link set dev {name} up"));
    lines.extend(link.addr_info.iter().filter_map(|a| address(name, a)));
    let mut routes: Vec<&Route> = routes.iter().filter(|r| r.dev.as_deref() == Some(name) && is_plain(r)).collect();
    // A gateway must be reachable itself.
    routes.sort_by_key(|r| r.gateway.is_some());
    lines.extend(routes.into_iter().map(|r| route(name, r)));
    lines
}

fn address(link: &str, a: &Address) -> Option<String> {
    let local = a.local.filter(|_| a.scope != "link")?;
    let mut line = format!("address replace {local}/{} dev {link} scope {}", a.prefixlen, a.scope);
    if let Some(broadcast) = a.broadcast {
        line += &format!(" broadcast {broadcast}");
    }
    // It was unique a moment ago; a socket cannot be bound to it while that is probed.
    if local.is_ipv6() {
        line += " nodad";
    }
    Some(line)
}

/// The kernel makes its own together with addresses.
fn is_plain(route: &Route) -> bool {
    route.protocol.as_deref() != Some("kernel") && route.more.keys().all(|key| NEGLIGIBLE.contains(&key.as_str()))
}

fn route(link: &str, r: &Route) -> String {
    let mut line = format!("route replace {}", r.dst);
    let mut add = |word: &str, value: Option<String>| line += &value.map_or(String::new(), |v| format!(" {word} {v}"));
    add("via", r.gateway.map(|ip| ip.to_string()));
    add("dev", Some(link.into()));
    add("proto", r.protocol.clone());
    add("scope", r.scope.clone());
    add("src", r.prefsrc.map(|ip| ip.to_string()));
    add("metric", r.metric.map(|m| m.to_string()));
    if r.flags.iter().any(|f| f == "onlink") {
        line += " onlink";
    }
    line
}

#[cfg(test)]
#[path = "links_tests.rs"]
mod tests;
