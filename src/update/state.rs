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
    /// Final: given up before the switch; every unit went on and nothing was lost.
    Aborted,
    /// Final: given up after the switch; units whose memory could not be brought back started cold.
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
    /// Each unit is resumed or was started cold.
    Restored,
    /// Every health check passed.
    Bless,
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
            (Switching | Restoring | Assessing, Event::Fail) => Failed,
            (state, event) => return Err(Illegal { state, event }),
        })
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, State::Refused | State::Done | State::Aborted | State::Failed)
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

    const EVENTS: [Event; 10] = [
        Event::Refuse,
        Event::Pass,
        Event::Armed,
        Event::Shutdown,
        Event::Committed,
        Event::Abort,
        Event::NewKernel,
        Event::Restored,
        Event::Bless,
        Event::Fail,
    ];

    #[test]
    fn the_main_road() {
        let road = [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed, Event::NewKernel];
        let state = road.iter().try_fold(State::Checking, |s, e| s.next(*e)).unwrap();
        assert_eq!(state, State::Restoring);
        assert_eq!(state.next(Event::Restored).unwrap().next(Event::Bless), Ok(State::Done));
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
                prop_assert!(!matches!(next, State::Restoring | State::Done | State::Failed) || committed);
                state = next;
            }
        }
    }
}
