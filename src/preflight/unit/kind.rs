//! Is it a kind of unit whose sandbox and start systemd can rebuild around a restored process?

use super::{Finding, View};

/// Types that end in one lasting main process and nothing that lives outside it.
const TYPES: [&str; 7] = ["", "simple", "exec", "forking", "notify", "notify-reload", "idle"];

pub fn ask(view: &View) -> Vec<Finding> {
    let mut found = Vec::new();
    let kind = view.service("Type");
    if kind == "dbus" || !view.service("BusName").is_empty() {
        let message = "it owns a name on the D-Bus bus, and a connection to the bus cannot be brought back";
        found.push(Finding::blocker("unit.type", message));
    } else if !TYPES.contains(&kind) {
        found.push(Finding::blocker("unit.type", format!("Type={kind} has no lasting main process to preserve")));
    }
    for key in ["RootDirectory", "RootImage"] {
        if !matches!(view.service(key), "" | "/") {
            let message = format!("{key}={} hides kup's placeholder, which takes its sandbox over", view.service(key));
            found.push(Finding::blocker("unit.root-directory", message));
        }
    }
    if crate::preflight::unit::adjust::is_on(view.service("PrivatePIDs")) {
        let message = "PrivatePIDs=yes puts it into a PID namespace, which cannot be dumped from inside it";
        found.push(Finding::blocker("unit.private-pids", message).fix("set PrivatePIDs=no and restart it"));
    }
    match view.procs.service.get("NFileDescriptorStore").parse::<u32>() {
        Ok(count) if count > 0 => {
            let message = format!("systemd keeps {count} file descriptors for it, and forgets them in the switch");
            found.push(Finding::warning("unit.fdstore", message));
        }
        _ => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;

    #[test]
    fn kinds() {
        for (lines, want) in [
            ("Type=notify-reload\n", &[][..]),
            ("Type=forking\nPIDFile=/run/a.pid\n", &[]),
            ("Type=dbus\nBusName=a.b\n", &["unit.type"]),
            ("Type=oneshot\n", &["unit.type"]),
            ("RootDirectory=/srv/jail\n", &["unit.root-directory"]),
            ("RootDirectory=/\n", &[]),
            ("RootImage=/a.raw\nPrivatePIDs=yes\n", &["unit.root-directory", "unit.private-pids"]),
        ] {
            assert_eq!(Unit::new().lines(lines).ids(ask), want, "{lines}");
        }
        assert_eq!(Unit::new().shows("NFileDescriptorStore=2\n").ids(ask), ["unit.fdstore"]);
    }
}
