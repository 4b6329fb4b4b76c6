//! timerfds, one that ticks and one for a moment far away, and a POSIX timer.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigEvent, SigevNotify};
use nix::sys::timer::Timer;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};
use serde_json::{Value, json};

use super::{Item, PATIENCE};
use crate::raw::SharedTimer;

const TICK: Duration = Duration::from_millis(100);
const FAR: Duration = Duration::from_secs(30 * 24 * 3600);
/// A timer may be late by the length of the switches that it lived through, and never early.
const LATE: Duration = Duration::from_secs(600);
/// Coarseness of the two readings that are compared.
const EARLY: Duration = Duration::from_secs(1);

/// All of them.
pub struct Timers {
    ticking: TimerFd,
    far: TimerFd,
    posix: SharedTimer,
    /// The moment that `far` and `posix` wait for, on the monotonic clock.
    due: Duration,
}

impl Timers {
    pub fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let ticking = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        ticking.set(Expiration::Interval(TICK.into()), TimerSetTimeFlags::empty())?;
        let due = now()? + FAR;
        let far = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        far.set(Expiration::OneShot(due.into()), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        let mut posix = Timer::new(Clock::CLOCK_MONOTONIC, SigEvent::new(SigevNotify::SigevNone))?;
        posix.set(Expiration::OneShot(FAR.into()), TimerSetTimeFlags::empty())?;
        Ok(Self { ticking, far, posix: SharedTimer(posix), due })
    }

    /// What is left of the far timers by their own account, and by the clock.
    fn left(&self) -> Result<(Duration, Duration, Duration)> {
        let far = self.far.get()?.context("the far timerfd is no longer armed")?;
        let posix = self.posix.0.get()?.context("the POSIX timer is no longer armed")?;
        Ok((once(far)?, once(posix)?, self.due.saturating_sub(now()?)))
    }
}

fn now() -> Result<Duration> {
    Ok(clock_gettime(Clock::CLOCK_MONOTONIC)?.into())
}

fn once(expiration: Expiration) -> Result<Duration> {
    match expiration {
        Expiration::OneShot(left) => Ok(left.into()),
        other => anyhow::bail!("a timer became {other:?}"),
    }
}

impl Item for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    fn check(&mut self) -> Result<()> {
        match self.ticking.get()? {
            Some(Expiration::IntervalDelayed(_, every) | Expiration::Interval(every)) => {
                ensure!(Duration::from(every) == TICK, "the periodic timerfd ticks every {every}");
            }
            other => anyhow::bail!("the periodic timerfd became {other:?}"),
        }
        // Twice, since the first tick may be an old one.
        for _ in 0..2 {
            let began = Instant::now();
            let mut fds = [PollFd::new(self.ticking.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(PATIENCE)?)?;
            ensure!(ready == 1, "the periodic timerfd was silent for {:?}", began.elapsed());
            self.ticking.wait()?;
        }
        let (far, posix, clock) = self.left()?;
        for (what, left) in [("timerfd", far), ("POSIX timer", posix)] {
            ensure!(left + EARLY >= clock, "the far {what} will be early: {left:?} left instead of {clock:?}");
            ensure!(left <= clock + LATE, "the far {what} will be late: {left:?} left instead of {clock:?}");
        }
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        let (far, posix, clock) = self.left().ok()?;
        let late = |left: Duration| left.as_secs_f64() - clock.as_secs_f64();
        Some(json!({ "timerfd_late_s": late(far), "posix_late_s": late(posix) }))
    }
}
