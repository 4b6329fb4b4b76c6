//! Does a hardware watchdog bring the old kernel back, should the new one hang?

use crate::config::Settings;
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::watchdog::{self, Unusable, Why};

/// What is said beside every watchdog that cannot be used: an update goes on without one.
const WITHOUT: &str = "a new kernel that hangs would stay until someone resets the machine";

pub fn ask(paths: &Paths, settings: &Settings, target: Option<&str>) -> Vec<Finding> {
    if settings.deadman_sec == 0 {
        let message = format!("DeadmanSec = 0 keeps the watchdog out of it: {WITHOUT}");
        let fix = "take DeadmanSec = 0 out of kup.toml, where the machine has a hardware watchdog";
        return vec![Finding::warning("watchdog.off", message).fix(fix)];
    }
    match watchdog::choose(paths, settings.deadman_sec, target) {
        Ok(choice) => {
            let message = format!(
                "{} ({}, {}) watches over the update: a hung new kernel is reset {} s after the checkpoint",
                choice.device.name, choice.device.identity, choice.driver.module, choice.fires_after
            );
            vec![Finding::note("watchdog.armed", message)]
        }
        Err(unavailable) if unavailable.0.is_empty() => {
            let message = format!("there is no hardware watchdog: {WITHOUT}");
            let fix = "load the driver of this machine's watchdog, or give the virtual machine one (i6300esb)";
            vec![Finding::warning("watchdog.none", message).fix(fix)]
        }
        Err(unavailable) => unavailable.0.iter().map(unusable).collect(),
    }
}

/// DeadmanSec, where a watchdog would keep to it; 0 where there is none that could.
pub fn limit(paths: &Paths, settings: &Settings, target: Option<&str>) -> u32 {
    match settings.deadman_sec {
        0 => 0,
        seconds => watchdog::choose(paths, seconds, target).map_or(0, |_| seconds),
    }
}

fn unusable(one: &Unusable) -> Finding {
    let id = match one.why {
        Why::Driver(_) | Why::StopsOnReboot => "watchdog.driver",
        Why::Timeout(_) => "watchdog.timeout",
        Why::Busy(_) => "watchdog.busy",
    };
    Finding::warning(id, format!("{one}; {WITHOUT}")).fix(one.fix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;
    use crate::watchdog::tree::Tree;

    #[test]
    fn one_for_each() {
        let settings = Settings::default();
        let ask = |tree: &Tree, settings: &Settings| ask(&tree.paths, settings, Some("6.12.2"));
        let id = |tree: &Tree| {
            let found = ask(tree, &settings);
            assert!(found.iter().all(|f| f.severity < Severity::Blocker), "{found:?}");
            found.into_iter().map(|f| f.id).collect::<Vec<_>>()
        };
        let tree = Tree::new();
        assert_eq!(id(&tree), ["watchdog.none"]);
        let limit = |tree: &Tree| limit(&tree.paths, &settings, Some("6.12.2"));
        assert_eq!(limit(&tree), 0);
        tree.watchdog(0, "Software Watchdog", None);
        assert_eq!(id(&tree), ["watchdog.driver"]);
        let off = ask(&tree, &Settings { deadman_sec: 0, ..Settings::default() });
        assert_eq!((off[0].id.as_str(), off.len()), ("watchdog.off", 1));
        tree.kernel("6.12.2", "i6300esb");
        tree.watchdog(1, "i6300ESB timer", Some("i6300esb"));
        assert_eq!(limit(&tree), settings.deadman_sec);
        let found = ask(&tree, &settings);
        assert_eq!((found[0].id.as_str(), found[0].severity), ("watchdog.armed", Severity::Note));
        assert!(
            found[0].message.contains("watchdog1 (i6300ESB timer, i6300esb)") && found[0].message.contains("300 s")
        );
        let found = ask(&tree, &Settings { deadman_sec: 3000, ..Settings::default() });
        assert_eq!((found[1].id.as_str(), found[1].fix.contains("DeadmanSec = 2046")), ("watchdog.timeout", true));
        tree.link("/proc/9/fd/3", "/dev/watchdog1");
        assert_eq!(id(&tree), ["watchdog.driver", "watchdog.busy"]);
        assert_eq!(limit(&tree), 0, "none that could be used");
    }
}
