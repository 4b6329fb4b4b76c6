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
/// what is not synced is lost), `hang`, `enospc`, `eio`, `record` (a bit of the record flips, then `power`), `image` (bits of each
/// unit's memory flip, in some of its pages). It happens once: /etc/kup/faults, where the lab asks for it, is gone then.
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

/// A place where a test can make things slow: `FAILPOINTS=place=sleep(100)`, as often as it is passed.
pub fn linger(place: &str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(place);
    #[cfg(not(feature = "failpoints"))]
    let _ = place;
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
    let _ = std::fs::remove_file("/etc/kup/faults");
    nix::unistd::sync();
    match fault {
        "enospc" => return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC)),
        "eio" => return Err(io::Error::from_raw_os_error(nix::libc::EIO)),
        "kill" => drop(raise(Signal::SIGKILL)),
        "power" => drop(std::fs::write("/proc/sysrq-trigger", "b")),
        "record" => {
            flip("/etc/kup/record.json".as_ref());
            nix::unistd::sync();
            drop(std::fs::write("/proc/sysrq-trigger", "b"));
        }
        "image" => {
            let all = entries("/var/lib/kup/images".as_ref());
            let slots = all.iter().flat_map(|update| entries(update)).map(|unit| unit.join(crate::criu::plain::SLOTS));
            for slots in slots.filter(|slots| slots.exists()) {
                damage(&slots).unwrap_or_else(|e| panic!("{}: {e}", slots.display()));
            }
            return Ok(());
        }
        _ => {}
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
}

#[cfg(feature = "failpoints")]
fn entries(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Flips a bit in the middle of a file.
#[cfg(feature = "failpoints")]
fn flip(path: &std::path::Path) {
    let flip = || {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        flip_at(&file, file.metadata()?.len() / 2)
    };
    let _: io::Result<()> = flip();
}

/// Flips a bit in each of some pages in the middle of a sparse file, of which some are sure to be in use.
#[cfg(feature = "failpoints")]
fn damage(path: &std::path::Path) -> io::Result<()> {
    use nix::unistd::{Whence, lseek};
    const PAGES: u64 = 64;
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let seek = |from: u64| lseek(&file, from as i64, Whence::SeekData).map(|at| at as u64);
    let mut at = seek(file.metadata()?.len() / 2).or_else(|_| seek(0))?;
    for _ in 0..PAGES {
        flip_at(&file, at)?;
        match seek(at + crate::store::PAGE) {
            Ok(next) => at = next,
            Err(_) => break,
        }
    }
    file.sync_all()
}

#[cfg(feature = "failpoints")]
fn flip_at(file: &std::fs::File, at: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)
}
