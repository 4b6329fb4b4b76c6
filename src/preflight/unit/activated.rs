//! Does it hold sockets that systemd listens on too?

use super::{Finding, View};
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let units: Vec<&str> = view.procs.service.list("TriggeredBy").filter(|u| u.ends_with(".socket")).collect();
    // Without a socket unit, what PID 1 holds of it lies in its descriptor store: nobody listens on that in the new boot.
    let shared = view.procs.sockets().filter(|(_, _, inode, _)| view.host.pid1_sockets.contains(inode));
    let fds: Vec<_> =
        shared.filter(|_| !units.is_empty()).map(|(p, f, ..)| format!("fd {} of {}", f.fd, super::label(p))).collect();
    if fds.is_empty() {
        return Vec::new();
    }
    let message = format!(
        "its {} is a socket of {}, on which systemd itself listens in the new boot",
        names(fds),
        names(units.iter().copied())
    );
    let fix = format!("let the service listen by itself: systemctl disable --now {}, then start it", units.join(" "));
    vec![Finding::blocker("sockets.activated", message).fix(fix)]
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;

    #[test]
    fn shared_with_pid_1() {
        let unit = |inode| {
            let mut unit = Unit::new().socket("TCP");
            unit.host.pid1_sockets.insert(inode);
            unit
        };
        let found = unit(1000).shows("TriggeredBy=a.timer a.socket\n").ask(ask);
        assert_eq!(found[0].id, "sockets.activated");
        assert!(found[0].message.contains("a.socket") && !found[0].message.contains("timer"));
        assert!(unit(7).shows("TriggeredBy=a.socket\n").ids(ask).is_empty());
        assert!(unit(1000).ids(ask).is_empty(), "its descriptor store");
    }
}
