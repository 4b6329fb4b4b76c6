//! Does it live in namespaces that systemd cannot build anew around it?

use super::adjust::{has_own, pending_users};
use super::{Finding, View, label};
use crate::inspect::Namespace;
use crate::preflight::names;

/// Kinds in which all processes must live together: CRIU enters those of the main process and dumps none of them. Not
/// the time namespace, which CRIU itself makes.
const SHARED: [Namespace; 7] = [
    Namespace::Mnt,
    Namespace::Uts,
    Namespace::Ipc,
    Namespace::Net,
    Namespace::Cgroup,
    Namespace::User,
    Namespace::Pid,
];

pub fn ask(view: &View) -> Vec<Finding> {
    let mut found = Vec::new();
    if has_own(view, Namespace::User) && !pending_users(view) {
        let message = "it is in a user namespace of its own, in which CRIU lacks the rights that it needs";
        found.push(Finding::blocker("namespaces.user", message).fix("set PrivateUsers=no and restart it"));
    }
    let nested_pids = view.procs.processes.iter().any(|p| p.ns_pids.len() > 1);
    if (has_own(view, Namespace::Pid) || nested_pids) && !super::adjust::is_on(view.service("PrivatePIDs")) {
        let message = "it has processes in a PID namespace of their own, which cannot be brought back";
        found.push(Finding::blocker("namespaces.pid", message));
    }
    let Some(main) = view.procs.main() else { return found };
    for kind in SHARED {
        let alive = view.procs.processes.iter().filter(|p| !p.is_zombie());
        let apart: Vec<_> = alive.filter(|p| p.ns.get(&kind) != main.ns.get(&kind)).map(label).collect();
        if !apart.is_empty() && !matches!(kind, Namespace::User | Namespace::Pid) {
            let message = format!("{} made {kind} namespaces of their own inside it", names(apart));
            found.push(Finding::blocker("namespaces.nested", message));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;
    use crate::inspect::Process;

    #[test]
    fn own_and_nested() {
        assert_eq!(Unit::new().own(Namespace::User).ids(ask), ["namespaces.user"]);
        assert!(Unit::new().own(Namespace::User).lines("PrivateUsers=self\n").ids(ask).is_empty(), "pending");
        assert_eq!(Unit::new().own(Namespace::Pid).ids(ask), ["namespaces.pid"]);
        assert!(Unit::new().own(Namespace::Mnt).own(Namespace::Net).own(Namespace::Time).ids(ask).is_empty());
        let mut unit = Unit::new();
        let ns = [(Namespace::Net, "net:[2]".to_string())].into();
        unit.procs.processes.push(Process { pid: 40_001, comm: "jail".into(), ns, ..Process::default() });
        let found = unit.ask(ask);
        assert_eq!(found[0].id, "namespaces.nested");
        assert!(found[0].message.contains("jail[40001]") && found[0].message.contains("net"), "{found:?}");
    }
}
