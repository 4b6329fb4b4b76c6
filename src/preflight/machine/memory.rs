//! Is there the memory that an update takes beside what the services have?

use std::fs;
use std::thread::available_parallelism;

use crate::config::Settings;
use crate::kernel::{self, handover, meminfo};
use crate::paths::Paths;
use crate::preflight::{Finding, Needs};

/// kupd's and the worker's own, bytes.
const KUP: u64 = 32 << 20;

/// What the machine has, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Room {
    /// Without taking anything away from anybody.
    available: u64,
    /// Where memory can be swapped out to.
    swap: u64,
}

pub fn ask(paths: &Paths, settings: &Settings, needs: &Needs, target: Option<&str>) -> Option<Finding> {
    if needs.units == 0 {
        return None;
    }
    let room = fs::read_to_string(paths.at("/proc/meminfo")).ok().and_then(|text| parse(&text));
    let Some(room) = room else {
        return Some(Finding::warning("space.memory", "/proc/meminfo does not tell how much memory is available"));
    };
    let (before, after) = takes(paths, settings, needs, target);
    Some(judge(before, after, room))
}

/// What the update takes beside what the services have: before the switch, and after it.
pub fn takes(paths: &Paths, settings: &Settings, needs: &Needs, target: Option<&str>) -> (u64, u64) {
    let before = before(needs, target.map_or(0, |target| size(paths, target)), settings.encryption);
    let after = needs.for_restore(available_parallelism().map_or(1, |n| n.get() as u64)).saturating_add(KUP);
    (before, after)
}

/// Up to the switch. The target is loaded first, and there twice while it is; what it goes to after the kexec is taken then.
fn before(needs: &Needs, target: u64, encryption: bool) -> u64 {
    let key = if encryption { handover::MEMORY } else { 0 };
    let loading = target.saturating_mul(2);
    let checkpoint = needs.for_checkpoint().saturating_add(target);
    loading.max(checkpoint).saturating_add(KUP + key)
}

/// `before` the switch the system can swap. `after` it there may be no swap yet when services come back; all else is as large
/// then as it is now.
fn judge(before: u64, after: u64, room: Room) -> Finding {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let fix = "free some memory, or mark fewer units";
    let needed = mib(before.max(after));
    if before > room.available.saturating_add(room.swap) {
        let has = mib(room.available.saturating_add(room.swap));
        let message = format!(
            "the checkpoint takes up to {} MiB of memory beside what the services have; {has} MiB are available",
            mib(before)
        );
        return Finding::blocker("space.memory", message).fix(fix);
    }
    if after > room.available {
        let message = format!(
            "the services come back with up to {} MiB more than they have in RAM now, for what is swapped out and for \
             bringing it; {} MiB are available",
            mib(after),
            mib(room.available)
        );
        return Finding::blocker("space.memory", message).fix(fix);
    }
    let message = format!(
        "the update takes up to {needed} MiB of memory beside what the services have; {} MiB are available",
        mib(room.available)
    );
    Finding::note("space.memory", message)
}

/// The target's image and initrd.
fn size(paths: &Paths, release: &str) -> u64 {
    let installed = kernel::discover(paths).unwrap_or_default();
    let files = installed.into_iter().filter(|k| k.release == release).flat_map(|k| [Some(k.image), k.initrd]);
    files.flatten().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
}

fn parse(meminfo: &str) -> Option<Room> {
    let field = |key| meminfo::field(meminfo, key);
    Some(Room { available: field("MemAvailable")?, swap: field("SwapFree").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_does_not_fit_is_refused() {
        let judge = |before, after, available, swap| {
            let finding = judge(before * MIB, after * MIB, Room { available: available * MIB, swap: swap * MIB });
            assert_eq!(finding.id, "space.memory");
            (finding.severity, finding.message)
        };
        let (severity, message) = judge(80, 100, 200, 0);
        assert_eq!(severity, Severity::Note);
        assert!(message.contains("100 MiB") && message.contains("200 MiB"), "{message}");
        let (severity, message) = judge(300, 100, 200, 0);
        assert_eq!(severity, Severity::Blocker);
        assert!(message.contains("300 MiB") && message.contains("200 MiB"), "{message}");
        assert_eq!(judge(300, 100, 200, 100).0, Severity::Note, "what is idle can be swapped out");
        let (severity, message) = judge(100, 300, 200, 1000);
        assert!(severity == Severity::Blocker && message.contains("swapped out"), "{message}");
    }

    #[test]
    fn the_target_is_counted_while_it_is_loaded() {
        let needs = Needs { units: 1, stored: 100 * MIB, ..Needs::default() };
        let checkpoint = needs.for_checkpoint() + KUP;
        assert_eq!(before(&needs, 0, false), checkpoint);
        assert_eq!(before(&needs, 10 * MIB, false), checkpoint + 10 * MIB);
        assert_eq!(before(&needs, 500 * MIB, false), 1000 * MIB + KUP);
        assert!(before(&needs, 0, true) > checkpoint);
    }

    #[test]
    fn from_a_machine() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let ask = |needs: &Needs| ask(&paths, &Settings::default(), needs, Some("1")).map(|f| f.severity);
        let needs = Needs { units: 1, stored: 100 * MIB, ..Needs::default() };
        assert_eq!(ask(&Needs::default()), None);
        assert_eq!(ask(&needs), Some(Severity::Warning));
        fs::create_dir_all(paths.at("/proc")).unwrap();
        let meminfo = "MemTotal:        4000000 kB\nMemAvailable:    2000000 kB\nSwapFree:         500000 kB\n";
        fs::write(paths.at("/proc/meminfo"), meminfo).unwrap();
        assert_eq!(parse(meminfo), Some(Room { available: 2_000_000 << 10, swap: 500_000 << 10 }));
        assert_eq!(ask(&needs), Some(Severity::Note));
        for path in ["/boot/vmlinuz-1", "/lib/modules/1/x"] {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), "").unwrap();
        }
        fs::File::options().write(true).open(paths.at("/boot/vmlinuz-1")).unwrap().set_len(2 << 30).unwrap();
        assert_eq!(ask(&needs), Some(Severity::Blocker), "a target that is larger than the machine");
    }
}
