//! The deadman: one hardware watchdog that is started just before the old kernel hands over, is pinged by nobody in the new
//! boot, and is stopped when the new kernel is blessed. If kernel, initrd or userspace of the new boot hangs, it resets the
//! machine, and the boot loader boots the old kernel.
//!
//! ```text
//! arm         Deadman::plan     looks; goes into the record
//!             Deadman::prepare  the core is loaded with stop_on_reboot=0, Deadman::words onto the target's command line
//! checkpoint  Deadman::start    behind the point of no return
//! bless       Deadman::disarm   in the new boot, and in the old kernel's after a fallback
//! abort       Deadman::undo     in the boot that it was planned in
//! ```
//!
//! Three things would let a hung kernel hang on, each seen in an experiment. The running kernel stops most timers in a kexec,
//! as in every restart (`stop_on_reboot`). The new kernel's driver stops the timer or has it pinged as soon as it is loaded,
//! hence the blacklist on the target's command line; this does not hinder an explicit modprobe when it is over. And a
//! watchdog that systemd pings in the new boot (`RuntimeWatchdogSec=`) tells nothing of a boot that does not get on.

mod choice;
mod deadman;
mod device;
mod driver;
mod modules;
mod pid1;
mod timer;
#[cfg(test)]
pub(crate) mod tree;

pub use choice::{Choice, Unavailable, Unusable, Why, choose};
pub use deadman::{Deadman, has_fired};
pub use device::{Device, Holder, devices, holder};
pub use driver::{Driver, Probe};
pub use pid1::{Pid1, Setting};
