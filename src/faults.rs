//! Places where a test can make something go wrong; nothing but names unless kup is built with the feature `failpoints`.
//!
//! A step calls [`at`] with its name. `FAILPOINTS=step=return(fault)` in the environment of kup-worker (crate `fail`) then
//! lets one of the faults of [`at`] happen there.

use std::io;

/// The steps of an update that can be made to fail, in the order in which they come.
pub const STEPS: [&str; 17] = [
    "arm.pinned",
    "arm.loaded",
    "arm.armed",
    "checkpoint.begun",
    "checkpoint.prepared",
    "checkpoint.imaged",
    "checkpoint.committed",
    "checkpoint.ended",
    "netlock.begun",
    "restore.begun",
    "restore.frozen",
    "restore.resumed",
    "restore.released",
    "restore.ended",
    "assess.begun",
    "bless.begun",
    "bless.blessed",
];

/// Lets the fault happen that is asked for at `step`: `kill` (SIGKILL of this process), `power` (the machine resets at once,
/// what is not synced is lost), `hang`, `enospc`, `eio`.
///
/// # Errors
/// What `enospc` and `eio` stand for.
#[cfg(feature = "failpoints")]
pub fn at(step: &str) -> io::Result<()> {
    debug_assert!(STEPS.contains(&step), "{step} is not in the list");
    fail::fail_point!(step, |fault| happen(step, fault.as_deref().unwrap_or_default()));
    Ok(())
}

/// Nothing happens in a kup that is not built for tests.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn at(step: &str) -> io::Result<()> {
    let _ = step;
    Ok(())
}

/// Reads what the environment asks for. Until the result is dropped, it is in force.
#[cfg(feature = "failpoints")]
pub fn set_up() -> impl Drop {
    fail::FailScenario::setup()
}

#[cfg(feature = "failpoints")]
fn happen(step: &str, fault: &str) -> io::Result<()> {
    use nix::sys::signal::{Signal, raise};
    // On the console, which the other side of a reset still sees.
    let _ = std::fs::write("/dev/kmsg", format!("<2>kup: fault {fault} at {step}\n"));
    match fault {
        "enospc" => return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC)),
        "eio" => return Err(io::Error::from_raw_os_error(nix::libc::EIO)),
        "kill" => drop(raise(Signal::SIGKILL)),
        "power" => drop(std::fs::write("/proc/sysrq-trigger", "b")),
        _ => {}
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}
