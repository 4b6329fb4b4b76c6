//! Addresses and routes of links over the switch, so that a restore need not wait for systemd-networkd.
//!
//! Only of devices, as others (bridges, VLANs) are made by networkd itself; and only where networkd has configured addresses
//! that do not expire: it finds them as it would have made them, and keeps them. What comes from a server (DHCP, router
//! advertisements) it would take away and ask for again.

pub mod drivers;
mod shown;

use std::collections::HashSet;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::command::feed;
use crate::kernel::modules;
use crate::paths::Paths;
use crate::sys::haste::Haste;
use shown::{Shown, links, parse};

/// Name of the file beside the images that holds the links.
pub const LINKS: &str = "links.json";
/// udev's control group.
const UDEV: &str = "/sys/fs/cgroup/system.slice/systemd-udevd.service";
const POLL: Duration = Duration::from_millis(20);

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
    /// The kernel module that drives it.
    #[serde(default)]
    pub driver: Option<String>,
}

/// The links of this network namespace that can be put back.
///
/// # Errors
/// When ip(8) is not installed, or its words make no sense.
pub fn look(paths: &Paths) -> Result<Vec<Link>> {
    let states = paths.at("/run/systemd/netif/links");
    let managed = |index: u32| is_managed(&fs::read_to_string(states.join(index.to_string())).unwrap_or_default());
    let routes = |family| ip(&["-j", family, "route"], "");
    let mut links = links(&ip(&["-j", "address"], "")?, &routes("-4")?, &routes("-6")?, &managed)?;
    links.retain(|link| drivers::is_device(paths, &link.name));
    links.iter_mut().for_each(|link| link.driver = drivers::of(paths, &link.name));
    Ok(links)
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

/// Waits until `links` are there by name, for at most `timeout`. Drivers that the initrd did not bring are loaded; links that
/// still have the kernel's name get their own, as udev would name them once its turn has come, and udev goes before the rest
/// of the boot meanwhile, where that is not enough.
pub fn wait(paths: &Paths, links: &[Link], timeout: Duration) {
    let is_missing = |link: &&Link| !paths.at(drivers::LINKS).join(&link.name).exists();
    let drivers: Vec<&str> = links.iter().filter(is_missing).filter_map(|link| link.driver.as_deref()).collect();
    if !drivers.is_empty() {
        modules::load(&drivers);
    }
    let (begun, mut udev, mut tried) = (Instant::now(), None, HashSet::new());
    while links.iter().any(|link| is_missing(&link)) && begun.elapsed() < timeout {
        for link in links.iter().filter(is_missing) {
            let Some(now) = drivers::with_kernels_name(paths, &link.mac) else { continue };
            // udev may be faster.
            if tried.insert(now.clone())
                && let Err(e) = ip(&["link", "set", "dev", &now, "name", &link.name], "")
            {
                tracing::info!("{now} is left to udev: {e:#}");
            }
        }
        // It may be only about to start.
        udev = udev.or_else(|| Haste::of(&paths.at(UDEV)));
        sleep(POLL);
    }
}

fn ip(args: &[&str], input: &str) -> Result<String> {
    let output = feed(Command::new("ip").args(args), input.as_bytes()).context("the package iproute2 has ip")?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// networkd's state of a link (networkctl(1), ADMIN_STATE).
fn is_managed(state: &str) -> bool {
    state.lines().any(|line| line == "ADMIN_STATE=configured")
}

#[cfg(test)]
mod tests;
