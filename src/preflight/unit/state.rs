//! Is there anything to preserve now?

use super::{Finding, View};

/// Id of the note about a marked unit that does not run: it will be started cold, as always.
pub const NOT_RUNNING: &str = "unit.not-running";

/// A finding ends the check of the unit: there is nothing more to look at, or it is just changing.
pub fn ask(view: &View) -> Option<Finding> {
    let service = &view.procs.service;
    if matches!(service.get("ActiveState"), "activating" | "deactivating" | "maintenance") {
        let state = format!("it is {} ({})", service.get("ActiveState"), service.get("SubState"));
        return Some(Finding::blocker("unit.changing", state).fix("wait until it is active and try again"));
    }
    if !service.is_active() || view.procs.processes.is_empty() {
        let message = format!("it has no process (it is {}); it starts as always", service.get("ActiveState"));
        return Some(Finding::note(NOT_RUNNING, message));
    }
    if view.procs.main().is_none() {
        let message = "systemd knows no main process of it";
        let fix = "for Type=forking set PIDFile=, or run the program in the foreground with Type=exec";
        return Some(Finding::blocker("unit.no-main-process", message).fix(fix));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;

    #[test]
    fn running_and_not() {
        let ask = |v: &View| ask(v).into_iter().collect();
        assert!(Unit::new().ids(ask).is_empty());
        assert_eq!(Unit::new().shows("ActiveState=activating\n").ids(ask), ["unit.changing"]);
        assert_eq!(Unit::new().shows("MainPID=0\n").ids(ask), ["unit.no-main-process"]);
        let mut dead = Unit::new().shows("ActiveState=failed\nMainPID=0\n");
        dead.procs.processes.clear();
        let found = dead.ask(ask);
        assert_eq!((found[0].id.as_str(), found[0].severity), (NOT_RUNNING, super::super::super::Severity::Note));
    }
}
