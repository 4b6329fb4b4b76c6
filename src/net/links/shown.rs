//! What ip(8) tells of links, and the lines for `ip -batch` that make them so again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Link;

/// "forever", as the kernel says it of an address.
const FOREVER: u64 = u32::MAX as u64;

/// As `ip -j address` tells it.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    pub(super) ifindex: u32,
    pub(super) ifname: String,
    #[serde(default)]
    pub(super) flags: Vec<String>,
    #[serde(default)]
    pub(super) address: String,
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
const NEGLIGIBLE: [&str; 2] = ["pref", "metrics"];

/// The list that ip has told.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    // Nothing to tell is no list at all in some versions.
    let text = if text.trim().is_empty() { "[]" } else { text };
    serde_json::from_str(text).context("ip tells something that kup does not know")
}

/// The links that can be put back, from ip's words.
pub(super) fn links(addresses: &str, v4: &str, v6: &str, managed: &dyn Fn(u32) -> bool) -> Result<Vec<Link>> {
    let shown: Vec<Shown> = parse(addresses)?;
    let (mut routes, mut v6): (Vec<Route>, Vec<Route>) = (parse(v4)?, parse(v6)?);
    v6.iter_mut().filter(|r| r.dst == "default").for_each(|r| r.dst = "::/0".into());
    routes.append(&mut v6);
    let wanted = shown.into_iter().filter(|s| managed(s.ifindex) && is_static(s));
    Ok(wanted.map(|s| Link { batch: batch(&s, &routes), name: s.ifname, mac: s.address, driver: None }).collect())
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
