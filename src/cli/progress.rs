//! Shows an update while it happens.

use serde::Serialize;

use super::model::{Phase, Update};
use super::output::{self, Output};

/// One line of `kup update --json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    /// The update has an id.
    Begin { id: &'a str, source: &'a str, target: &'a str },
    /// It stands elsewhere.
    State { state: &'a str },
    /// A phase ended.
    Phase(&'a Phase),
    /// The machine switches now; nothing more will be heard from this process.
    Switch { target: &'a str },
    /// It ended, or (armed) has come as far as it was to go.
    End { state: &'a str, reason: Option<&'a str> },
}

/// What was shown so far.
#[derive(Debug)]
pub struct Progress {
    out: Output,
    begun: bool,
    state: String,
    ended_phases: Vec<String>,
    switched: bool,
}

impl Progress {
    /// Nothing so far.
    pub fn new(out: Output) -> Self {
        Self { out, begun: false, state: String::new(), ended_phases: Vec::new(), switched: false }
    }

    /// Shows what is new in `update`.
    pub fn show(&mut self, update: &Update) {
        if !self.begun {
            self.begun = true;
            let event = Event::Begin { id: &update.id, source: &update.source, target: &update.target };
            self.out.event(&event, &format!("update {}: {} to {}", update.id, update.source, update.target));
        }
        for phase in &update.phases {
            // The same name can come twice; the begin tells them apart.
            let key = format!("{} {}", phase.start_usec, phase.name);
            if phase.end_usec.is_some() && !self.ended_phases.contains(&key) {
                self.out.event(&Event::Phase(phase), &format!("{:<32} {:>10}", phase.name, output::took(phase)));
                self.ended_phases.push(key);
            }
        }
        if self.state != update.state {
            self.state.clone_from(&update.state);
            if self.out.json {
                self.out.event(&Event::State { state: &update.state }, "");
            }
            if matches!(update.state.as_str(), "checkpointing" | "switching") {
                self.switch(update);
            }
        }
        match update.phases.iter().rev().find(|p| p.end_usec.is_none()) {
            Some(phase) if !update.is_final() => self.out.passing(&format!("{} …", phase.name)),
            _ => {}
        }
    }

    /// Says that this session ends; once.
    pub fn switch(&mut self, update: &Update) {
        if !self.switched {
            self.switched = true;
            let text = format!("switching to {}; this session ends now", update.target);
            self.out.event(&Event::Switch { target: &update.target }, &text);
        }
    }

    /// Says how it ended.
    pub fn end(&mut self, update: &Update) {
        let text = match (update.state.as_str(), &update.reason) {
            ("armed", _) => format!("armed: 'systemctl kexec' switches to {}, 'kup abort' gives it up", update.target),
            ("refused", reason) => {
                format!(
                    "refused, nothing was touched: {}; 'kup check' shows all findings",
                    reason.as_deref().unwrap_or("see there")
                )
            }
            (state, Some(reason)) => format!("{state}: {reason}"),
            (state, None) => state.to_string(),
        };
        self.out.event(&Event::End { state: &update.state, reason: update.reason.as_deref() }, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_tagged_lines() {
        let phase = Phase { name: "arm".into(), start_usec: 1, end_usec: Some(2) };
        for (event, want) in [
            (Event::Phase(&phase), r#"{"event":"phase","name":"arm","start_usec":1,"end_usec":2}"#),
            (Event::State { state: "arming" }, r#"{"event":"state","state":"arming"}"#),
            (Event::End { state: "armed", reason: None }, r#"{"event":"end","state":"armed","reason":null}"#),
            (Event::Switch { target: "6.12" }, r#"{"event":"switch","target":"6.12"}"#),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), want);
        }
    }
}
