//! A thread that looks at the clocks every 10 ms and remembers the worst that it saw.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::Item;

const PERIOD: Duration = Duration::from_millis(10);
const CLOCKS: [(&str, ClockId); 3] = [
    ("monotonic", ClockId::CLOCK_MONOTONIC),
    ("boottime", ClockId::CLOCK_BOOTTIME),
    ("realtime", ClockId::CLOCK_REALTIME),
];

/// One clock's history, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    first: i128,
    last: i128,
    /// The largest step back; 0 when there was none.
    back: i128,
    /// The largest step forward between two looks.
    forward: i128,
}

impl Seen {
    fn look(&mut self, now: i128) {
        self.back = self.back.max(self.last - now);
        self.forward = self.forward.max(now - self.last);
        self.last = now;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sight {
    looks: u64,
    clocks: [Seen; 3],
}

/// What was seen so far.
pub struct Clocks(Arc<Mutex<Sight>>);

fn read(clock: ClockId) -> Result<i128> {
    let now = clock_gettime(clock)?;
    Ok(i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec()))
}

impl Clocks {
    pub fn start() -> Result<Self> {
        let mut sight = Sight::default();
        for (seen, (_, clock)) in sight.clocks.iter_mut().zip(CLOCKS) {
            let now = read(clock)?;
            *seen = Seen { first: now, last: now, ..Seen::default() };
        }
        let shared = Arc::new(Mutex::new(sight));
        let theirs = shared.clone();
        thread::Builder::new().name("clocks".into()).spawn(move || {
            loop {
                look(&theirs);
                thread::sleep(PERIOD);
            }
        })?;
        Ok(Self(shared))
    }

    fn sight(&self) -> Sight {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn look(sight: &Mutex<Sight>) {
    let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
    sight.looks += 1;
    for (seen, (_, clock)) in sight.clocks.iter_mut().zip(CLOCKS) {
        if let Ok(now) = read(clock) {
            seen.look(now);
        }
    }
}

impl Item for Clocks {
    fn name(&self) -> &'static str {
        "clocks"
    }

    fn check(&mut self) -> Result<()> {
        let before = self.sight();
        // The wall clock may be set back; the other two never go back.
        for (seen, (name, _)) in before.clocks.iter().zip(CLOCKS).take(2) {
            ensure!(seen.back == 0, "{name} went back by {} ns", seen.back);
        }
        thread::sleep(PERIOD * 5);
        let after = self.sight();
        ensure!(after.looks > before.looks, "the thread that looks at the clocks stands still");
        ensure!(after.clocks[0].last > before.clocks[0].last, "the monotonic clock stands still");
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        let sight = self.sight();
        let clock = |seen: &Seen| {
            json!({
                "ns": seen.last as i64, "since_start_ns": (seen.last - seen.first) as i64,
                "max_step_back_ns": seen.back as i64, "max_step_forward_ns": seen.forward as i64,
            })
        };
        let mut facts: serde_json::Map<_, _> =
            sight.clocks.iter().zip(CLOCKS).map(|(seen, (name, _))| (name.to_string(), clock(seen))).collect();
        facts.insert("looks".into(), json!(sight.looks));
        Some(facts.into())
    }
}
