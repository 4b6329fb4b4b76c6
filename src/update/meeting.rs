//! Where the threads of all units meet: each reports how far it got, and waits to be told whether to go on.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use crate::unit::UnitName;

/// What one unit's thread says: that it is ready, with what it found, or why it never will be.
#[derive(Debug)]
pub struct Report<T> {
    /// Which unit.
    pub unit: UnitName,
    /// What it says.
    pub word: Result<T, String>,
}

/// A thread's end.
#[derive(Debug)]
pub struct Seat<T> {
    unit: UnitName,
    report: Sender<Report<T>>,
    verdict: Receiver<bool>,
    spoken: bool,
}

impl<T> Seat<T> {
    /// Says "ready" and waits for the verdict. A chair that is gone has decided against.
    pub fn ready(&mut self, found: T) -> bool {
        self.say(Ok(found)) && self.verdict.recv().unwrap_or(false)
    }

    /// Says why this unit will never be ready. Nothing is said twice.
    pub fn fail(&mut self, reason: String) {
        self.say(Err(reason));
    }

    fn say(&mut self, word: Result<T, String>) -> bool {
        if std::mem::replace(&mut self.spoken, true) {
            return false;
        }
        self.report.send(Report { unit: self.unit.clone(), word }).is_ok()
    }
}

impl<T> Drop for Seat<T> {
    /// A thread that panics has spoken too.
    fn drop(&mut self) {
        self.fail("its thread ended without a word; see the journal".into());
    }
}

/// The coordinator's end.
#[derive(Debug)]
pub struct Chair<T> {
    reports: Receiver<Report<T>>,
    verdicts: Vec<(UnitName, Sender<bool>)>,
}

impl<T> Chair<T> {
    /// A meeting of `units`: its chair, and a seat for each.
    pub fn call(units: impl IntoIterator<Item = UnitName>) -> (Self, Vec<Seat<T>>) {
        let (report, reports) = channel();
        let (mut verdicts, mut seats) = (Vec::new(), Vec::new());
        for unit in units {
            let (decide, verdict) = channel();
            verdicts.push((unit.clone(), decide));
            seats.push(Seat { unit, report: report.clone(), verdict, spoken: false });
        }
        (Self { reports, verdicts }, seats)
    }

    /// One report of each unit, in order of arrival.
    pub fn hear(&self) -> Vec<Report<T>> {
        self.verdicts.iter().filter_map(|_| self.reports.recv().ok()).collect()
    }

    /// As [`Chair::hear`], until `deadline`; the second list is of those who have not spoken by then.
    pub fn hear_until(&self, deadline: Instant) -> (Vec<Report<T>>, Vec<UnitName>) {
        let mut silent: BTreeSet<UnitName> = self.verdicts.iter().map(|(unit, _)| unit.clone()).collect();
        let mut heard = Vec::new();
        while !silent.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(report) = self.reports.recv_timeout(left) else { break };
            silent.remove(&report.unit);
            heard.push(report);
        }
        (heard, silent.into_iter().collect())
    }

    /// Tells every unit for which `verdict` holds to go on, and the others to undo.
    pub fn decide(self, verdict: impl Fn(&UnitName) -> bool) {
        for (unit, decide) in self.verdicts {
            let _ = decide.send(verdict(&unit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet(words: &[Option<Result<u32, &str>>]) -> (Vec<Result<u32, String>>, Vec<bool>) {
        let names = (0..words.len()).map(|i| format!("u{i}").parse().unwrap());
        let (chair, seats) = Chair::call(names.collect::<Vec<UnitName>>());
        std::thread::scope(|scope| {
            let threads: Vec<_> = seats
                .into_iter()
                .zip(words)
                .map(|(mut seat, word)| {
                    scope.spawn(move || match word {
                        Some(Ok(n)) => seat.ready(*n),
                        Some(Err(e)) => {
                            seat.fail(e.to_string());
                            false
                        }
                        None => false,
                    })
                })
                .collect();
            let heard = chair.hear();
            let all = heard.iter().all(|r| r.word.is_ok());
            chair.decide(|_| all);
            let gone_on = threads.into_iter().map(|t| t.join().unwrap()).collect();
            (heard.into_iter().map(|r| r.word).collect(), gone_on)
        })
    }

    #[test]
    fn who_is_silent_is_named() {
        let names = ["a", "b"].map(|n| n.parse::<UnitName>().unwrap());
        let (chair, mut seats) = Chair::<u32>::call(names.clone());
        seats[0].fail("no".into());
        let (heard, silent) = chair.hear_until(Instant::now());
        assert_eq!((heard.len(), silent), (1, vec![names[1].clone()]));
    }

    #[test]
    fn all_or_none() {
        assert_eq!(meet(&[Some(Ok(1)), Some(Ok(2))]).1, [true, true]);
        assert_eq!(meet(&[Some(Ok(1)), Some(Err("no")), Some(Ok(3))]).1, [false, false, false]);
        let (words, gone_on) = meet(&[Some(Ok(1)), None]);
        assert_eq!((words.len(), gone_on), (2, vec![false, false]), "a silent thread counts as failed");
    }
}
