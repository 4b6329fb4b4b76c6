//! Which kind of boot this is to an update: the generator and the steps of the new boot ask the same question.

use std::fs;

use anyhow::Result;

use super::{Record, State, UpdateId};
use crate::kernel;
use crate::paths::Paths;

/// How many boots of the old kernel may try to restore units: one, and one more where the machine went down before the record
/// says that it was about to. Whatever brings it down might do so each time.
const MOST_TRIES: usize = 2;

/// What a boot is to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThisBoot {
    /// Nothing is pending, or the update is still under way in the boot in which it began.
    Ordinary,
    /// The switch was made: units wait to be restored.
    Restore,
    /// The machine came back without the new kernel having resumed anything: units wait to be restored here.
    FallBack,
    /// Units are restored: only the assessment is left (a reload during it).
    Bless,
    /// An update was under way, and this is not the boot that it was to lead to; or its images are still there.
    Settle,
}

impl ThisBoot {
    /// Tells from the record, the transaction on the kernel command line and this boot's id.
    pub fn of(record: &Record, transaction: Option<&UpdateId>, boot_id: &str) -> Self {
        if record.source_boot == boot_id || (record.state().is_final() && record.wiped) {
            return Self::Ordinary;
        }
        if record.state().is_final() {
            let ended_here = record.restore_boot.as_deref() == Some(boot_id);
            return if ended_here { Self::Ordinary } else { Self::Settle };
        }
        let target = transaction == Some(&record.id);
        let begun_here = record.restore_boot.as_deref() == Some(boot_id);
        let images = record.units.values().any(|u| u.state.may_resume());
        let tries = record.fall_back_boots.iter().filter(|boot| *boot != boot_id).count();
        match record.state() {
            State::Switching if target => Self::Restore,
            State::Restoring if begun_here => Self::Restore,
            State::Switching | State::Restoring if images && tries < MOST_TRIES => Self::FallBack,
            State::FallingBack if begun_here => Self::FallBack,
            State::Assessing if begun_here => Self::Bless,
            _ => Self::Settle,
        }
    }

    /// The same for the running machine.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn look(paths: &Paths, record: &Record) -> Result<Self> {
        let transaction = kernel::cmdline::transaction(&fs::read_to_string(paths.cmdline())?);
        Ok(Self::of(record, transaction.as_ref(), &kernel::boot_id(paths)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Event, TargetKernel, UnitRecord, UnitState};

    fn record() -> Record {
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "source".into(), target);
        let unit = UnitRecord { state: UnitState::Imaged, ..UnitRecord::default() };
        record.units.insert("a".parse().unwrap(), unit);
        record
    }

    /// Walks a record along `events` and checks what each boot is to it.
    fn walk(record: &mut Record, steps: &[(Option<Event>, ThisBoot, ThisBoot)]) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let (ours, other): (UpdateId, UpdateId) = ("5a".parse().unwrap(), "5b".parse().unwrap());
        for (event, in_target, elsewhere) in steps {
            event.iter().for_each(|e| record.advance(*e, &path).unwrap());
            let state = record.state();
            assert_eq!(ThisBoot::of(record, Some(&ours), "source"), ThisBoot::Ordinary, "{state:?}");
            assert_eq!(ThisBoot::of(record, Some(&ours), "next"), *in_target, "{state:?}");
            assert_eq!(ThisBoot::of(record, Some(&other), "third"), *elsewhere, "{state:?}");
            assert_eq!(ThisBoot::of(record, None, "third"), *elsewhere, "{state:?}");
        }
    }

    #[test]
    fn every_state_in_every_boot() {
        use ThisBoot::*;
        let mut record = record();
        walk(&mut record, &[(None, Settle, Settle)]);
        for event in [Event::Pass, Event::Armed, Event::Shutdown] {
            walk(&mut record, &[(Some(event), Settle, Settle)]);
        }
        walk(&mut record, &[(Some(Event::Committed), Restore, FallBack)]);
        record.restore_boot = Some("next".into());
        walk(&mut record, &[(Some(Event::NewKernel), Restore, FallBack)]);
        record.units.values_mut().for_each(|u| u.state = UnitState::Resumed);
        walk(&mut record, &[(None, Restore, Settle), (Some(Event::Restored), Bless, Settle)]);
        walk(&mut record, &[(Some(Event::Bless), Ordinary, Settle)]);
        record.wiped = true;
        walk(&mut record, &[(None, Ordinary, Ordinary)]);
    }

    #[test]
    fn no_machine_falls_back_for_ever() {
        let mut record = record();
        let dir = tempfile::tempdir().unwrap();
        for event in [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed] {
            record.advance(event, &dir.path().join("record.json")).unwrap();
        }
        for boot in ["one", "two"] {
            assert_eq!(ThisBoot::of(&record, None, boot), ThisBoot::FallBack);
            record.fall_back_boots.push(boot.into());
            assert_eq!(ThisBoot::of(&record, None, boot), ThisBoot::FallBack, "it is still the same boot");
        }
        assert_eq!(ThisBoot::of(&record, None, "three"), ThisBoot::Settle);
        assert_eq!(ThisBoot::of(&record, Some(&record.id), "target"), ThisBoot::Restore, "kexec leads there once");
    }

    #[test]
    fn a_fall_back_is_made_once() {
        let mut record = record();
        walk(&mut record, &[(Some(Event::Pass), ThisBoot::Settle, ThisBoot::Settle)]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        for event in [Event::Armed, Event::Shutdown, Event::Committed, Event::OldKernel] {
            record.advance(event, &path).unwrap();
        }
        record.restore_boot = Some("back".into());
        assert_eq!(ThisBoot::of(&record, None, "back"), ThisBoot::FallBack);
        assert_eq!(ThisBoot::of(&record, None, "after"), ThisBoot::Settle);
    }
}
