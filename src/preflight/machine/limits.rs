//! Do the limits that end a new kernel's trial leave a boot of this machine enough time?

use std::time::Duration;

use crate::config::Settings;
use crate::preflight::Finding;
use crate::systemd::Systemd;

/// A boot may take so many times what the last one took: a restore, a check of a file system, a disk that is busy.
const SPARE: u64 = 2;

/// Asks systemd how long this boot took, from the kernel's begin on; what it does not tell is no finding.
pub fn ask(settings: &Settings) -> Vec<Finding> {
    let finished = Systemd::connect().ok().and_then(|s| s.manager_property::<u64>("FinishTimestampMonotonic").ok());
    finished.map(|usec| judge(settings, Duration::from_micros(usec))).unwrap_or_default()
}

fn judge(settings: &Settings, boot: Duration) -> Vec<Finding> {
    let (took, limits) = (
        boot.as_secs(),
        [("DeadmanSec", u64::from(settings.deadman_sec)), ("BootTimeoutSec", settings.boot_timeout_sec)],
    );
    let short = limits.into_iter().filter(|(_, limit)| *limit > 0 && *limit < took * SPARE);
    let finding = |(name, limit)| {
        let message = format!(
            "this machine took {took} s to boot, and {name} = {limit}: an update may be taken back only because its boot \
             is slow"
        );
        Finding::warning("boot.slow", message).fix(format!("{name} = {} in /etc/kup/kup.toml", took * SPARE * 2))
    };
    short.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_by_itself() {
        let settings = Settings { deadman_sec: 300, boot_timeout_sec: 240, ..Settings::default() };
        let fixes = |boot| judge(&settings, Duration::from_secs(boot)).into_iter().map(|f| f.fix).collect::<Vec<_>>();
        assert!(fixes(0).is_empty(), "not finished");
        assert!(fixes(120).is_empty());
        assert_eq!(fixes(121), ["BootTimeoutSec = 484 in /etc/kup/kup.toml"]);
        assert_eq!(fixes(151).len(), 2);
        let without = Settings { deadman_sec: 0, ..settings };
        assert_eq!(judge(&without, Duration::from_secs(151)).len(), 1, "no watchdog, no limit");
    }
}
