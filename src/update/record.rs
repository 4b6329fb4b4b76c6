//! The record: the whole truth about the update that is under way, or the last one, in one file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::ram::Handed;
use super::{Event, Illegal, Pin, State, UnitRecord, UnitState, UpdateId, ballast};
use crate::kernel::panic::PanicSettings;
use crate::sys::atomic;
use crate::unit::UnitName;
use crate::watchdog::Deadman;

/// The format that this version writes; others are refused, not guessed at.
const VERSION: u32 = 1;
/// How the digest's line begins.
const DIGEST: &str = "\n  \"digest\": ";

/// One update. Written atomically (and synced) before each step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Of all the rest, as it is written; none in memory.
    #[serde(default)]
    digest: Option<String>,
    /// Which update.
    pub id: UpdateId,
    state: State,
    /// Why it was refused, aborted or failed; one sentence.
    pub reason: Option<String>,
    /// Release of the kernel that was running when it began.
    pub source: String,
    /// Boot id of that kernel's boot, to tell "before the switch" from "after it".
    pub source_boot: String,
    /// Where it goes.
    pub target: TargetKernel,
    /// The administrator keeps `systemctl kexec` for themselves.
    pub stage_only: bool,
    /// The update that this one takes back: it goes to the kernel from which that one came.
    #[serde(default)]
    pub reverses: Option<UpdateId>,
    /// Did systemd act on `WatchdogSec=` before units were frozen? `None` where they were not.
    #[serde(default)]
    pub service_watchdogs: Option<bool>,
    /// What the old kernel was booted with (/proc/cmdline); empty where that was never armed.
    #[serde(default)]
    pub cmdline: String,
    /// The watchdog that ends a hang of the new kernel, where there is one.
    #[serde(default)]
    pub deadman: Option<Deadman>,
    /// What a panic does under the old kernel.
    #[serde(default)]
    pub panic: Option<PanicSettings>,
    /// Whether its images are gone.
    #[serde(default)]
    pub wiped: bool,
    /// Physical addresses of the pages that hold the key of encrypted images; none where they are not encrypted.
    #[serde(default)]
    pub handover: Option<Vec<u64>>,
    /// The memory that is set aside to stay in RAM; none where no unit's does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<Handed>,
    /// Boot id of the boot in which units are restored, once there is one.
    #[serde(default)]
    pub restore_boot: Option<String>,
    /// Boots of the old kernel in which units were to be restored, the last one included.
    #[serde(default)]
    pub fall_back_boots: Vec<String>,
    /// What the shutdown stops before the checkpoint, and what is started again where it is called off.
    #[serde(default)]
    pub ahead: Vec<String>,
    /// No process of the new boot may get a PID at or below it.
    pub pid_floor: u32,
    /// How the boot loader is pinned, so that it can be unpinned. An update that ended badly behind the switch leaves it so.
    pub pin: Option<Pin>,
    /// The pin that an update before this one has left so, with what stood there before all of them: where this one is
    /// given up, it is in force again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_pin: Option<Pin>,
    /// Local addresses that restored TCP sockets are bound to; restore waits for them.
    pub addresses: Vec<IpAddr>,
    /// Digests of the files beside the images that are read before these are verified, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, String>,
    /// Every marked unit.
    pub units: BTreeMap<UnitName, UnitRecord>,
    /// What took how long, in order of beginning.
    pub phases: Vec<Phase>,
}

/// The kernel to switch to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetKernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its initrd, where it has one.
    pub initrd: Option<PathBuf>,
}

/// A stretch of time. Both ends are wall-clock microseconds, which go on over the switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// `check`, `arm`, `switch`, `boot`, `restore`, …; with ` UNIT` behind it where it concerns one unit.
    pub name: String,
    /// Microseconds since the epoch.
    pub start: u64,
    /// Microseconds since the epoch; 0 while it is under way.
    pub end: u64,
}

/// Why a record could not be read, written or moved on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file could not be read or written.
    #[error("{path}: {cause}")]
    Io {
        /// The record's path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file is no record.
    #[error("{path} is damaged ({cause}); no image will be restored from it. Remove it to start afresh")]
    Damaged {
        /// The record's path.
        path: PathBuf,
        /// What the parser said.
        cause: serde_json::Error,
    },
    /// A record of another version of kup.
    #[error("{path} has format {found}, this kup reads format {VERSION}")]
    Version {
        /// The record's path.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The step does not belong here.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

/// Where a second copy of the record at `path` lies.
/// Of a record's text as it is without one. Not of what is made of the text: a version that knows more fields than the one that
/// wrote it would make something else of it. As a manifest's: against faulty storage, not against people.
pub(super) fn digest(text: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text))
}

/// Is `found`, which is in `text`, the digest of all the rest?
fn fits(text: &[u8], found: &str) -> bool {
    let without = |text: &str| text.replacen(&format!("{DIGEST}\"{found}\""), &format!("{DIGEST}null"), 1);
    std::str::from_utf8(text).is_ok_and(|text| digest(without(text).as_bytes()) == found)
}

fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy.json")
}

/// Wall-clock microseconds since the epoch.
pub fn now_usec() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

impl Record {
    /// A record of an update that begins with its check.
    pub fn new(id: UpdateId, source: String, source_boot: String, target: TargetKernel) -> Self {
        Self {
            version: VERSION,
            digest: None,
            id,
            state: State::Checking,
            reason: None,
            source,
            source_boot,
            target,
            stage_only: false,
            reverses: None,
            cmdline: String::new(),
            service_watchdogs: None,
            deadman: None,
            panic: None,
            wiped: false,
            handover: None,
            ram: None,
            restore_boot: None,
            fall_back_boots: Vec::new(),
            ahead: Vec::new(),
            pid_floor: 0,
            pin: None,
            earlier_pin: None,
            addresses: Vec::new(),
            beside: BTreeMap::new(),
            units: BTreeMap::new(),
            phases: Vec::new(),
        }
    }

    /// Where the update stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The kernel that boots by default while the update is under way. A reverse update leaves one that is not to boot again.
    pub fn old_kernel(&self) -> &str {
        if self.reverses.is_some() { &self.target.release } else { &self.source }
    }

    /// The units that stand so.
    pub fn units_in(&self, state: UnitState) -> impl Iterator<Item = &UnitName> {
        self.units.iter().filter(move |(_, unit)| unit.state == state).map(|(name, _)| name)
    }

    /// Parses a record.
    ///
    /// # Errors
    /// [`RecordError::Version`] and [`RecordError::Damaged`], with `path` for the message.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, RecordError> {
        let damaged = |cause| RecordError::Damaged { path: path.into(), cause };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(damaged)?;
        match value.get("version").and_then(|v| v.as_u64()) {
            Some(found) if found != u64::from(VERSION) => Err(RecordError::Version { path: path.into(), found }),
            _ => {
                let mut record: Self = serde_json::from_value(value).map_err(damaged)?;
                match record.digest.take() {
                    Some(digest) if !fits(text, &digest) => {
                        Err(damaged(serde::de::Error::custom("its digest does not fit")))
                    }
                    _ => Ok(record),
                }
            }
        }
    }

    /// Reads the record at `path`; `None` where there is none. Where it cannot be read or is lost its copy counts, which is
    /// never older: a step that the copy knows of has not begun when the record does not.
    ///
    /// # Errors
    /// As [`Record::parse`], and [`RecordError::Io`].
    pub fn load(path: &Path) -> Result<Option<Self>, RecordError> {
        match (Self::load_one(path), Self::load_one(&copy_of(path))) {
            (Err(RecordError::Damaged { .. } | RecordError::Io { .. }) | Ok(None), Ok(Some(copy))) => Ok(Some(copy)),
            (record, _) => record,
        }
    }

    fn load_one(path: &Path) -> Result<Option<Self>, RecordError> {
        match fs::read(path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(RecordError::Io { path: path.into(), cause }),
        }
    }

    /// The record as it is written, and as [`Record::parse`] reads it: with a digest.
    ///
    /// # Errors
    /// None of this version's records has any.
    pub fn render(&self) -> serde_json::Result<Vec<u8>> {
        let with = |digest| serde_json::to_vec_pretty(&Self { digest, ..self.clone() });
        with(Some(digest(&with(None)?)))
    }

    /// Writes the record: complete and synced, or not at all; its copy first.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), RecordError> {
        let io = |cause| RecordError::Io { path: path.into(), cause };
        let text = self.render().map_err(|e| io(e.into()))?;
        let write = || atomic::write(&copy_of(path), &text, 0o600).and_then(|()| atomic::write(path, &text, 0o600));
        ballast::with(path, write).map_err(io)
    }

    /// Moves to the state after `event` and writes the record, in this order: a caller that got `Ok` may begin the step.
    ///
    /// # Errors
    /// [`RecordError::Illegal`] and [`RecordError::Io`]; in memory the state is then as before.
    pub fn advance(&mut self, event: Event, path: &Path) -> Result<(), RecordError> {
        let next = self.state.next(event)?;
        let before = std::mem::replace(&mut self.state, next);
        self.save(path).inspect_err(|_| self.state = before)
    }

    /// Begins a phase; the returned index ends it.
    pub fn begin(&mut self, name: impl Into<String>) -> usize {
        self.phases.push(Phase { name: name.into(), start: now_usec(), end: 0 });
        self.phases.len() - 1
    }

    /// Ends what is still under way: the phase that began in one boot and ends in the next.
    pub fn end_open_phases(&mut self) {
        let now = now_usec();
        self.phases.iter_mut().filter(|p| p.end == 0).for_each(|p| p.end = now);
    }

    /// A new boot, whose kernel began at `began` (microseconds since the epoch): what was under way ended there, and the boot
    /// has come so far now.
    pub fn enter_boot(&mut self, began: u64) {
        self.phases.iter_mut().filter(|p| p.end == 0).for_each(|p| p.end = began.max(p.start));
        self.phases.push(Phase { name: "boot".into(), start: began, end: now_usec() });
    }

    /// Ends the phase that [`Record::begin`] returned.
    pub fn end(&mut self, phase: usize) {
        self.end_at(phase, now_usec());
    }

    /// The same for one that ended at `at`, microseconds since the epoch.
    pub fn end_at(&mut self, phase: usize, at: u64) {
        if let Some(p) = self.phases.get_mut(phase) {
            p.end = at;
        }
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
