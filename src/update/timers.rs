//! Periodic timerfds that had expired and were not read yet when they were dumped.
//!
//! Such a timer has no time left (its next round begins with the read), and CRIU hands just that to timerfd_settime(2),
//! where "no time" means "disarm": the restored timer would tick once more and then never again.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::inspect::UnitProcs;
use crate::sys::{pidfd::PidFd, timerfd};

/// A timer that CRIU would disarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpiredTimer {
    /// A process that has it open.
    pub pid: i32,
    /// Its descriptor there.
    pub fd: i32,
    /// Nanoseconds between two expirations.
    pub interval: u64,
    /// Expirations that nobody has read yet.
    pub ticks: u64,
}

/// The expired periodic timers of a frozen unit.
pub fn expired(procs: &UnitProcs) -> Vec<ExpiredTimer> {
    let timers = procs.fds().filter(|(_, f)| f.is_anon("timerfd"));
    timers
        .filter_map(|(p, f)| {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", p.pid, f.fd)).ok()?;
            let (interval, ticks) = parse(&info)?;
            Some(ExpiredTimer { pid: p.pid, fd: f.fd, interval, ticks })
        })
        .collect()
}

/// Interval in nanoseconds and unread expirations, where a timer's fdinfo (proc_pid_fdinfo(5)) says that it is periodic and
/// has no time left.
pub fn parse(info: &str) -> Option<(u64, u64)> {
    let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let time = |name: &str| {
        let (seconds, nanoseconds) = field(name)?.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        let seconds: u64 = seconds.trim().parse().ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds.trim().parse().ok()?)
    };
    let (left, interval) = (time("it_value")?, time("it_interval")?);
    (left == 0 && interval > 0).then_some((interval, field("ticks")?.parse().ok()?))
}

/// Arms them in the restored processes, before these run.
///
/// # Errors
/// When one of them is not there.
pub fn rearm(timers: &[ExpiredTimer]) -> Result<()> {
    for t in timers {
        let arm = || timerfd::arm(&PidFd::open(t.pid)?.get_fd(t.fd)?, Duration::from_nanos(t.interval), t.ticks);
        arm().with_context(|| format!("cannot arm the periodic timer {} of process {}", t.fd, t.pid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn only_expired_periodic_timers() {
        let info = |value: &str, interval: &str| {
            format!("pos:\t0\nclockid: 1\nticks: 3\nsettime flags: 00\nit_value: {value}\nit_interval: {interval}\n")
        };
        assert_eq!(parse(&info("(0, 0)", "(0, 100000000)")), Some((100_000_000, 3)));
        assert_eq!(parse(&info("(0, 49406829)", "(1, 0)")), None, "it still has time");
        assert_eq!(parse(&info("(0, 0)", "(0, 0)")), None, "it is disarmed");
        assert_eq!(parse("pos:\t0\n"), None);
        assert_eq!(parse(&info("(0, 0)", "(18446744074, 0)")), None, "more nanoseconds than there are numbers");
    }

    /// The kernel's own words about a real timer, and a real timer armed again.
    #[test]
    fn a_real_timer_ticks_again() {
        use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap();
        let tick = Duration::from_millis(5);
        timer.set(Expiration::Interval(tick.into()), TimerSetTimeFlags::empty()).unwrap();
        std::thread::sleep(tick * 4);
        let fd = std::os::fd::AsFd::as_fd(&timer).as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        let (interval, ticks) = parse(&info).unwrap_or_else(|| panic!("{info}"));
        assert_eq!(interval, tick.as_nanos() as u64);
        timer.unset().unwrap();
        let me = std::process::id() as i32;
        rearm(&[ExpiredTimer { pid: me, fd, interval, ticks }]).unwrap();
        timer.wait().unwrap();
        timer.wait().unwrap();
    }
}
