//! The small verbs of kup-worker.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libsystemd::daemon::{NotifyState, notify as sd_notify};

use crate::config::Settings;
use crate::net::links::{self, LINKS, Link};
use crate::net::lock;
use crate::paths::Paths;
use crate::request::{CHECK_REPORT, CHECK_REQUEST, CheckRequest, UPDATE_FAILURE, UPDATE_REQUEST, UpdateRequest};
use crate::systemd::Systemd;
use crate::update::checkpoint::{KEXEC, NETLOCK};
use crate::update::{Lock, Record, State, ThisBoot, arm, beside, encryption, network, undo};
use crate::{faults, kernel, packages, preflight, sys};

/// Services that start on an ordinary boot get PIDs above it: kernel threads of the next kernel, which start before any
/// floor is in force, stay below. The default pid_max before systemd raised it.
const FIRST_SERVICE_PID: u32 = 32768;
/// How long drivers of links may take. One that does not come keeps networkd waiting that long.
const LINKS_WITHIN: Duration = Duration::from_secs(10);

fn request<T: serde::de::DeserializeOwned>(paths: &Paths, name: &str) -> Result<T> {
    let path = paths.run_dir().join(name);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no request", path.display()))
}

/// Answers the [`CheckRequest`] in /run/kup.
///
/// # Errors
/// When the machine cannot be looked at; findings are no errors.
pub fn check(paths: &Paths) -> Result<()> {
    let asked: CheckRequest = request(paths, CHECK_REQUEST)?;
    let report = preflight::run(paths, &Settings::load(paths)?, &asked.units, asked.target.as_deref())?;
    Ok(sys::atomic::write(&paths.run_dir().join(CHECK_REPORT), &serde_json::to_vec(&report)?, 0o600)?)
}

/// Does what the [`UpdateRequest`] in /run/kup asks for.
///
/// # Errors
/// As [`arm::run`].
pub fn update(paths: &Paths) -> Result<()> {
    let failure = paths.run_dir().join(UPDATE_FAILURE);
    let _ = fs::remove_file(&failure);
    let result = request::<UpdateRequest>(paths, UPDATE_REQUEST).and_then(|request| arm::run(paths, &request));
    result.inspect_err(|e| {
        // The record says it too, unless that could not be written.
        let _ = fs::write(&failure, format!("{e:#}"));
    })
}

/// Gives up an update that waits for `systemctl kexec`, or one whose worker died before the switch. After one that ended and
/// left the boot loader pinned, takes that back.
///
/// # Errors
/// When there is none, or it is past the point where it can be given up.
pub fn abort(paths: &Paths) -> Result<()> {
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let Some(mut record) = Record::load(&paths.record())? else { bail!("no update is under way") };
    match record.state() {
        State::Checking | State::Arming | State::Armed => {
            let reason = undo::lost_kernel(paths, &record)?.unwrap_or_else(|| "the administrator gave it up".into());
            undo::abort(paths, &Systemd::connect()?, &mut record, &reason)
        }
        State::Switching if record.source_boot == kernel::boot_id(paths)? => {
            let systemd = Systemd::connect()?;
            if systemd.has_job(KEXEC)? {
                bail!("update {} is switching: it cannot be given up any more", record.id);
            }
            undo::give_up_switch(paths, &systemd, &mut record, "the shutdown was cancelled, and the update given up")
        }
        state if record.pin_left().is_none() => {
            bail!("update {} is {}: it cannot be given up", record.id, state.as_str())
        }
        _ => undo::let_go(paths, &mut record),
    }
}

/// Waits until no package manager runs, then asks for an update as an administrator would.
///
/// # Errors
/// When the locks are not free in time, or the update is refused.
pub fn automatic(paths: &Paths) -> Result<()> {
    let settings = Settings::load(paths)?;
    let deadline = Instant::now() + Duration::from_secs(settings.lock_timeout_sec);
    while packages::are_changing(paths) {
        if Instant::now() > deadline {
            bail!("the package manager is still busy after {} s; 'kup update' tries again", settings.lock_timeout_sec);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = Command::new("/usr/bin/kup").args(["update", "--yes"]).status().context("cannot start kup")?;
    if status.success() { Ok(()) } else { bail!("'kup update' ended with {status}") }
}

/// Locks the network as it was locked at the checkpoint; where that cannot be known, as the images say.
///
/// # Errors
/// When the rules cannot be set; TCP connections are lost then.
pub fn netlock(paths: &Paths) -> Result<()> {
    let Some(record) = note_try(paths)? else { return Ok(()) };
    faults::at("netlock.begun")?;
    encryption::unlock(paths, &record)?;
    let spec = beside::read(paths, &record, NETLOCK).unwrap_or_else(|e| {
        tracing::error!("the ports of all connections in the images are locked instead: {e:#}");
        network::to_lock(paths, &record)
    });
    lock::lock(&spec)
}

/// Puts links back as they were at the checkpoint. What cannot be put back is left to systemd-networkd.
///
/// # Errors
/// When the record cannot be read.
pub fn links(paths: &Paths) -> Result<()> {
    let Some(record) = to_restore(paths)? else { return Ok(()) };
    // Where they could not be saved, the checkpoint said so.
    if !record.beside.contains_key(LINKS) {
        return Ok(());
    }
    let put_back = || {
        let links: Vec<Link> = beside::read(paths, &record, LINKS)?;
        links::wait(paths, &links, LINKS_WITHIN);
        links::put_back(paths, &links)
    };
    if let Err(e) = put_back() {
        tracing::warn!("services wait for systemd-networkd: {e:#}");
    }
    Ok(())
}

/// The same as [`to_restore`]. That this boot of the old kernel tries it is written down before anything that an ordinary boot
/// does not do: a machine that goes down of it is not to come here again and again.
fn note_try(paths: &Paths) -> Result<Option<Record>> {
    let falls_back = |record: &Record| Ok::<_, anyhow::Error>(ThisBoot::look(paths, record)? == ThisBoot::FallBack);
    let Some(record) = to_restore(paths)? else { return Ok(None) };
    if !falls_back(&record)? {
        // The restore may have begun, and holds the lock until its end.
        return Ok(Some(record));
    }
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let Some(mut record) = to_restore(paths)? else { return Ok(None) };
    let boot = kernel::boot_id(paths)?;
    if falls_back(&record)? && !record.fall_back_boots.contains(&boot) {
        record.fall_back_boots.push(boot);
        record.save(&paths.record()).unwrap_or_else(|e| tracing::error!("this way back is not written down: {e}"));
    }
    Ok(Some(record))
}

/// The record of an update whose services are to be restored in this boot.
fn to_restore(paths: &Paths) -> Result<Option<Record>> {
    let Some(record) = Record::load(&paths.record())? else { return Ok(None) };
    let here = matches!(ThisBoot::look(paths, &record)?, ThisBoot::Restore | ThisBoot::FallBack);
    Ok(here.then_some(record))
}

/// Raises the next PID, on a boot whose kernel was not told to: an ordinary one, and one that falls back.
///
/// # Errors
/// When the kernel refuses.
pub fn pid_floor(paths: &Paths) -> Result<()> {
    const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
    const PID_MAX: &str = "/proc/sys/kernel/pid_max";
    let number = |path: &str| -> Result<u32> { Ok(fs::read_to_string(path)?.trim().parse()?) };
    if number(PID_MAX)? < kernel::PID_MAX {
        fs::write(PID_MAX, kernel::PID_MAX.to_string())?;
    }
    let record = Record::load(&paths.record()).ok().flatten();
    let falls_back = record.filter(|r| ThisBoot::look(paths, r).is_ok_and(|boot| boot == ThisBoot::FallBack));
    let floor = falls_back.map_or(FIRST_SERVICE_PID, |r| r.pid_floor);
    if number(LAST_PID)? < floor {
        fs::write(LAST_PID, floor.to_string())?;
    }
    Ok(())
}

/// Tells systemd that `main_pid` is the main process of the unit whose control group this process is in, and stays
/// until it is killed: systemd looks the sender up.
///
/// # Errors
/// When systemd cannot be reached.
pub fn notify(main_pid: i32) -> Result<()> {
    let states = [NotifyState::Other(format!("MAINPID={main_pid}")), NotifyState::Ready];
    if !sd_notify(false, &states)? {
        bail!("NOTIFY_SOCKET is not set");
    }
    std::thread::sleep(Duration::from_secs(600));
    Ok(())
}
