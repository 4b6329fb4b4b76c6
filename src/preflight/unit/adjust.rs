//! Are the adjustments that it needs in force in the processes that run?

use super::{Finding, View};
use crate::inspect::Namespace;
use crate::unit::{Adjust, adjustments, refusals};

pub fn ask(view: &View) -> Vec<Finding> {
    let mut found: Vec<Finding> = refusals(view.unit, view.spec)
        .into_iter()
        .map(|r| Finding::blocker("unit.adjust-refused", format!("{} cannot be had: {}", r.adjust.as_str(), r.why)))
        .collect();
    let mut pending = Vec::new();
    if pending_users(view) {
        pending.push("PrivateUsers=no");
    }
    if pending_ipc(view) {
        pending.push("PrivateIPC=yes");
    }
    if pending_io_uring(view) {
        pending.push("no-io-uring");
    }
    if !pending.is_empty() {
        let message = format!("it was started before kup adjusted it ({})", pending.join(", "));
        // Adjustments are made for marked units only.
        let fix = match view.spec.preserve {
            true => view.restart(),
            false => format!("kup preserve {} && {}", view.name(), view.restart()),
        };
        found.push(Finding::blocker("unit.adjust-pending", message).fix(fix));
    }
    found
}

/// The generator switches PrivateUsers= off from the next start on, but it still is in a user namespace.
pub fn pending_users(view: &View) -> bool {
    has_own(view, Namespace::User) && adjustments(view.unit, view.spec).iter().any(|a| a.directive == "PrivateUsers")
}

/// It holds SysV memory outside an IPC namespace of its own, and gets one from the next start on.
pub fn pending_ipc(view: &View) -> bool {
    view.spec.adjust.contains(&Adjust::PrivateIpc)
        && !has_own(view, Namespace::Ipc)
        && view.procs.mappings().any(|(_, m)| m.is_sysv())
}

/// It has io_uring rings, and cannot make any from the next start on.
pub fn pending_io_uring(view: &View) -> bool {
    view.spec.adjust.contains(&Adjust::NoIoUring) && refusals(view.unit, view.spec).is_empty() && has_rings(view)
}

/// Whether a process of it has a ring, open or mapped.
pub fn has_rings(view: &View) -> bool {
    view.procs.fds().any(|(_, f)| f.is_anon("io_uring")) || view.procs.mappings().any(|(_, m)| m.is_io_uring())
}

pub fn has_own(view: &View, kind: Namespace) -> bool {
    view.procs.processes.iter().any(|p| p.namespaces.contains(&kind))
}

/// systemd's words for yes; options such as `PrivateUsers=` know further words, which all switch something on.
pub fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "no" | "n" | "false" | "f" | "off")
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;
    use crate::inspect::{FdKind, Mapping};

    fn ring() -> FdKind {
        FdKind::Anon { name: "io_uring".into() }
    }

    #[test]
    fn what_a_restart_would_cure() {
        let pending = ["unit.adjust-pending"];
        assert_eq!(Unit::new().lines("PrivateUsers=yes\n").own(Namespace::User).ids(ask), pending);
        assert!(Unit::new().lines("PrivateUsers=yes\n").ids(ask).is_empty(), "restarted already");
        assert!(Unit::new().own(Namespace::User).ids(ask).is_empty(), "not systemd's doing");
        assert_eq!(Unit::new().lines("KUPAdjust=no-io-uring\n").fd(ring(), 1).ids(ask), pending);
        assert!(Unit::new().lines("KUPAdjust=no-io-uring\n").ids(ask).is_empty());
        let sysv = Mapping { name: "/SYSV00000001".into(), deleted: true, shared: true, ..Mapping::default() };
        let unit = || Unit::new().lines("KUPAdjust=private-ipc\n").map(sysv.clone());
        assert_eq!(unit().ids(ask), pending);
        assert!(unit().own(Namespace::Ipc).ids(ask).is_empty());
    }

    #[test]
    fn the_way_out_is_whole() {
        let fix = |lines| Unit::new().lines(lines).own(Namespace::User).ask(ask)[0].fix.clone();
        assert_eq!(fix("PrivateUsers=yes\n[X-KUP]\nKUPPreserve=yes\n"), "systemctl restart a.service");
        assert_eq!(fix("PrivateUsers=yes\n"), "kup preserve a.service && systemctl restart a.service");
    }

    #[test]
    fn refused_adjustments() {
        let unit = Unit::new().lines("SystemCallFilter=@system-service\nKUPAdjust=no-io-uring\n").fd(ring(), 1);
        assert_eq!(unit.ids(ask), ["unit.adjust-refused"]);
    }
}
