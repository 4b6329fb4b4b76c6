//! The state machine of an update, and of each unit in it.

use serde::{Deserialize, Serialize};

/// Where an update stands. Written to the record *before* the step that it names begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Preflight; nothing was touched.
    Checking,
    /// Final: preflight found a reason; nothing was touched.
    Refused,
    /// Boot loader pinned, target kernel loaded: under way.
    Arming,
    /// Ready for `systemctl kexec`.
    Armed,
    /// Shutdown has begun; units are being frozen and dumped. All or nothing.
    Checkpointing,
    /// Every image is complete and synced; tasks are being killed; the machine jumps.
    Switching,
    /// The new kernel runs; units are being restored.
    Restoring,
    /// Units run again; health is being assessed.
    Assessing,
    /// Final: the new kernel is the default.
    Done,
    /// The old kernel runs again, because the new one did not bring the units back; they are being restored there.
    FallingBack,
    /// Final: back on the old kernel, which is what boots by default.
    FellBack,
    /// Final: given up before the switch; every unit went on and nothing was lost.
    Aborted,
    /// Final: given up after the switch, with units that could not be brought back or with a new kernel that was not
    /// blessed.
    Failed,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Preflight found a blocker.
    Refuse,
    /// Preflight found none.
    Pass,
    /// The target is loaded and the old kernel pinned.
    Armed,
    /// systemd is stopping for a kexec.
    Shutdown,
    /// All images are complete, synced and committed.
    Committed,
    /// A step before the switch failed, or the administrator changed their mind.
    Abort,
    /// Userspace of the target kernel asks for its units.
    NewKernel,
    /// Userspace of the old kernel asks for its units: the new kernel has resumed none of them.
    OldKernel,
    /// Each unit is resumed or was started cold.
    Restored,
    /// Every health check passed.
    Bless,
    /// A reverse update has brought the units back to the old kernel.
    Return,
    /// A step after the switch failed for good.
    Fail,
}

/// An event that makes no sense in a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an update that is {state:?} cannot take {event:?}")]
pub struct Illegal {
    /// Where the update stands.
    pub state: State,
    /// What was tried.
    pub event: Event,
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// [`Illegal`] when the event does not belong to the state; the update stays where it is.
    pub fn next(self, event: Event) -> Result<State, Illegal> {
        use State::*;
        Ok(match (self, event) {
            (Checking, Event::Refuse) => Refused,
            (Checking, Event::Pass) => Arming,
            (Arming, Event::Armed) => Armed,
            (Armed, Event::Shutdown) => Checkpointing,
            (Checkpointing, Event::Committed) => Switching,
            (Checking | Arming | Armed | Checkpointing, Event::Abort) => Aborted,
            (Switching, Event::NewKernel) => Restoring,
            (Restoring, Event::Restored) => Assessing,
            (Assessing, Event::Bless) => Done,
            (Assessing, Event::Return) => FellBack,
            // Once: what was not resumed by a first fall back is not tried again.
            (Switching | Restoring, Event::OldKernel) => FallingBack,
            (FallingBack, Event::Restored) => FellBack,
            (Switching | Restoring | Assessing | FallingBack, Event::Fail) => Failed,
            (state, event) => return Err(Illegal { state, event }),
        })
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, State::Refused | State::Done | State::Aborted | State::FellBack | State::Failed)
    }

    /// The word that users see, the same in CLI, D-Bus and record.
    pub fn as_str(self) -> &'static str {
        use State::*;
        match self {
            Checking => "checking",
            Refused => "refused",
            Arming => "arming",
            Armed => "armed",
            Checkpointing => "checkpointing",
            Switching => "switching",
            Restoring => "restoring",
            Assessing => "assessing",
            Done => "done",
            FallingBack => "falling-back",
            FellBack => "fell-back",
            Aborted => "aborted",
            Failed => "failed",
        }
    }
}

/// Where one unit stands. The rule above all: an image is resumed at most once, and never after its task has run on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    /// To be checkpointed.
    #[default]
    Running,
    /// Its image is complete and its tasks have not run since.
    Imaged,
    /// Its tasks ran on (or may have) after the image was taken: the image must never be resumed.
    Void,
    /// Its tasks run from the image: the image is used up.
    Resumed,
    /// It starts by its own ExecStart=, without its memory.
    Cold {
        /// Why.
        reason: String,
    },
}

impl UnitState {
    /// Whether its image may be resumed.
    pub fn may_resume(&self) -> bool {
        *self == UnitState::Imaged
    }

    /// The word that users see.
    pub fn as_str(&self) -> &'static str {
        match self {
            UnitState::Running => "running",
            UnitState::Imaged => "imaged",
            UnitState::Void => "void",
            UnitState::Resumed => "resumed",
            UnitState::Cold { .. } => "cold",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [Event; 12] = [
        Event::Refuse,
        Event::Pass,
        Event::Armed,
        Event::Shutdown,
        Event::Committed,
        Event::Abort,
        Event::NewKernel,
        Event::OldKernel,
        Event::Restored,
        Event::Bless,
        Event::Return,
        Event::Fail,
    ];

    #[test]
    fn the_main_road() {
        let road = [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed, Event::NewKernel];
        let state = road.iter().try_fold(State::Checking, |s, e| s.next(*e)).unwrap();
        assert_eq!(state, State::Restoring);
        assert_eq!(state.next(Event::Restored).unwrap().next(Event::Bless), Ok(State::Done));
    }

    #[test]
    fn the_ways_back() {
        for stranded in [State::Switching, State::Restoring] {
            let back = stranded.next(Event::OldKernel).unwrap();
            assert_eq!(back.next(Event::Restored), Ok(State::FellBack));
            assert_eq!(back.next(Event::Fail), Ok(State::Failed));
            assert!(back.next(Event::OldKernel).is_err(), "only once");
        }
        // Units that run have left their images behind: what went wrong then is no reason to use them again.
        assert!(State::Assessing.next(Event::OldKernel).is_err());
    }

    proptest! {
        /// No order of events leaves a final state, aborts after the commit, or reaches the new kernel without one.
        #[test]
        fn no_way_round(events in prop::collection::vec(prop::sample::select(&EVENTS[..]), 0..40)) {
            let (mut state, mut committed) = (State::Checking, false);
            for event in events {
                let Ok(next) = state.next(event) else { continue };
                prop_assert!(!state.is_final());
                committed |= event == Event::Committed;
                prop_assert!(next != State::Aborted || !committed);
                let after = [State::Restoring, State::FallingBack, State::Done, State::FellBack, State::Failed];
                prop_assert!(!after.contains(&next) || committed);
                state = next;
            }
        }
    }
}
