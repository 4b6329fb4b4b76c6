//! A signalfd, blocked signals, and one signal that waits to be taken.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::getpid;

use super::Item;

/// Taken by the signalfd at each check.
const TAKEN: Signal = Signal::SIGUSR1;
/// Sent at the start, never taken.
const PENDING: Signal = Signal::SIGUSR2;

/// The signals of this process.
pub struct Signals(SignalFd);

impl Signals {
    /// To be called before the first thread, since threads inherit what is blocked.
    pub fn new() -> Result<Self> {
        let taken = SigSet::from(TAKEN);
        let mut blocked = taken;
        blocked.add(PENDING);
        blocked.thread_block()?;
        kill(getpid(), PENDING)?;
        Ok(Self(SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }
}

impl Item for Signals {
    fn name(&self) -> &'static str {
        "signals"
    }

    fn check(&mut self) -> Result<()> {
        ensure!(self.0.read_signal()?.is_none(), "the signalfd has a signal that nobody sent");
        kill(getpid(), TAKEN)?;
        let info = self.0.read_signal()?.context("the signalfd does not get the signal")?;
        ensure!(info.ssi_signo == TAKEN as u32, "the signalfd got signal {}", info.ssi_signo);
        ensure!(info.ssi_pid == getpid().as_raw() as u32, "the signal came from {}", info.ssi_pid);
        let status = fs::read_to_string("/proc/self/status")?;
        let pending = status.lines().find_map(|l| l.strip_prefix("ShdPnd:")).context("no ShdPnd in status")?;
        let pending = u64::from_str_radix(pending.trim(), 16)?;
        let right = 1 << (PENDING as u64 - 1);
        ensure!(pending == right, "the pending signals are {pending:#x} instead of {right:#x}");
        Ok(())
    }
}
