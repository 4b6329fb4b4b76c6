//! Which kind of boot this is.

use crate::update::{Record, State, UpdateId};

/// What a boot is to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boot {
    /// Nothing is pending, or the update is still under way in the boot in which it began.
    Ordinary,
    /// The switch was made: units wait to be restored.
    Restore,
    /// Units are restored: only the assessment is left (a reload during it).
    Bless,
    /// An update was under way, and this is not the boot that it was to lead to.
    Settle,
}

/// Tells from the record, the transaction on the kernel command line and this boot's id.
pub(super) fn boot(record: &Record, transaction: Option<&UpdateId>, boot_id: &str) -> Boot {
    if record.state().is_final() || record.source_boot == boot_id {
        return Boot::Ordinary;
    }
    match record.state() {
        State::Switching | State::Restoring if transaction == Some(&record.id) => Boot::Restore,
        State::Assessing if transaction == Some(&record.id) => Boot::Bless,
        _ => Boot::Settle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Event, TargetKernel};

    #[test]
    fn every_state_in_every_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "source".into(), target);
        let (ours, other): (UpdateId, UpdateId) = ("5a".parse().unwrap(), "5b".parse().unwrap());
        let mut check = |event: Option<Event>, in_target: Boot, elsewhere: Boot| {
            event.into_iter().for_each(|e| record.advance(e, &path).unwrap());
            assert_eq!(boot(&record, Some(&ours), "source"), Boot::Ordinary, "{:?}", record.state());
            assert_eq!(boot(&record, Some(&ours), "next"), in_target, "{:?}", record.state());
            assert_eq!(boot(&record, Some(&other), "next"), elsewhere, "{:?}", record.state());
            assert_eq!(boot(&record, None, "next"), elsewhere, "{:?}", record.state());
        };
        check(None, Boot::Settle, Boot::Settle);
        for event in [Event::Pass, Event::Armed, Event::Shutdown] {
            check(Some(event), Boot::Settle, Boot::Settle);
        }
        check(Some(Event::Committed), Boot::Restore, Boot::Settle);
        check(Some(Event::NewKernel), Boot::Restore, Boot::Settle);
        check(Some(Event::Restored), Boot::Bless, Boot::Settle);
        check(Some(Event::Bless), Boot::Ordinary, Boot::Ordinary);
    }
}
