//! Does the target's command line fit into what kernels take?

use std::fs;

use crate::config::Settings;
use crate::kernel::cmdline::{self, Direction, Ours, TooLong};
use crate::kernel::{handover, panic, pid_floor, taken};
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::update::UpdateId;
use crate::watchdog;

pub fn ask(paths: &Paths, settings: &Settings, target: &str) -> Option<Finding> {
    make(paths, settings, target).err().map(|e| Finding::blocker("target.cmdline", e.to_string()))
}

/// How long it would be, without what tells of memory that stays in RAM.
pub fn length(paths: &Paths, settings: &Settings, target: &str) -> usize {
    make(paths, settings, target).map_or_else(|too_long| too_long.length, |line| line.len())
}

/// As arming makes it, with other numbers of the same length.
fn make(paths: &Paths, settings: &Settings, target: &str) -> Result<String, TooLong> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let running = read(paths.cmdline());
    let last_pid = read(paths.at("/proc/sys/kernel/ns_last_pid")).trim().parse().unwrap_or_default();
    let extra = cmdline::split(&settings.kernel_arguments);
    let added = added(paths, settings, target, &[cmdline::own(&running), extra.clone()].concat());
    let extra: Vec<&str> = extra.into_iter().chain(added.iter().map(String::as_str)).collect();
    let ours =
        Ours { direction: Direction::There, id: &UpdateId::now(), pid_floor: pid_floor(&[last_pid]), extra: &extra };
    cmdline::make(&running, &paths.at("/boot").join(format!("vmlinuz-{target}")), &ours)
}

/// What an update adds to the words that are `given`.
fn added(paths: &Paths, settings: &Settings, target: &str, given: &[&str]) -> Vec<String> {
    let mut added = panic::words(given.iter().copied());
    if settings.deadman_sec > 0
        && let Ok(choice) = watchdog::choose(paths, settings.deadman_sec, Some(target))
    {
        added.extend(choice.driver.words());
    }
    if settings.encryption {
        // At addresses that the machine has.
        let address = taken::total(paths).unwrap_or_default();
        added.extend(handover::words(&[address; handover::COPIES]));
    }
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_adds_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let settings = Settings { kernel_arguments: "loglevel=7".into(), ..Settings::default() };
        fs::create_dir_all(paths.at("/proc")).unwrap();
        let with = |settings: &Settings, own: usize| {
            fs::write(paths.cmdline(), "x".repeat(own)).unwrap();
            (length(&paths, settings, "6.12.1"), ask(&paths, settings, "6.12.1"))
        };
        let (short, none) = with(&settings, 9);
        assert!(short > 9 + "kup.txn=".len() + "loglevel=7 panic=10 oops=panic kup.end".len() && none.is_none());
        let encrypted = Settings { encryption: true, ..settings.clone() };
        assert!(with(&encrypted, 9).0 > short + handover::COPIES * "memmap=4K$0x0".len());
        let fits = cmdline::MAX - (short - 9);
        assert_eq!(with(&settings, fits), (cmdline::MAX, None));
        let (long, found) = with(&settings, fits + 1);
        assert_eq!(long, cmdline::MAX + 1);
        assert!(found.unwrap().message.contains("2048 bytes long, kernels take 2047; shorten it"));
    }
}
