//! What kupd (hardened, unprivileged but for its uid) hands to kup-worker (privileged): small JSON files in /run/kup.
//!
//! Neither side trusts the other's caller: kupd checks the D-Bus caller with polkit and the arguments for their form;
//! kup-worker reads the file again into these types and refuses what does not parse.

use serde::{Deserialize, Serialize};

use crate::preflight::Report;
use crate::unit::UnitName;
use crate::update::UpdateId;

/// File name of an [`UpdateRequest`] below [`crate::paths::Paths::run_dir`].
pub const UPDATE_REQUEST: &str = "update-request.json";
/// File name of a [`CheckRequest`].
pub const CHECK_REQUEST: &str = "check-request.json";
/// File name of the [`Report`] that answers a [`CheckRequest`].
pub const CHECK_REPORT: &str = "check-report.json";
/// Name of the file in /run/kup that says why an update could not even be written down.
pub const UPDATE_FAILURE: &str = "update-failure";
/// File name of the [`Report`] of the newest update's own check.
pub const UPDATE_REPORT: &str = "update-report.json";

/// Starts an update. `kup-update.service` reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    /// The new update's id, chosen by kupd.
    pub id: crate::update::UpdateId,
    /// Kernel release to switch to; the staged one, else the newest installed one, where absent.
    pub target: Option<String>,
    /// Marked units whose cold restart the administrator accepts when they cannot be preserved.
    #[serde(default)]
    pub allow_restart: Vec<UnitName>,
    /// The update that this one takes back (`kup rollback`).
    #[serde(default)]
    pub reverses: Option<UpdateId>,
    /// Arm, and leave `systemctl kexec` to the administrator.
    #[serde(default)]
    pub stage_only: bool,
}

/// Asks whether units could be preserved. `kup-check.service` reads it and writes [`CHECK_REPORT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The units to look at; all marked ones where empty.
    #[serde(default)]
    pub units: Vec<UnitName>,
    /// Kernel release that would be switched to; chosen as in [`UpdateRequest::target`].
    pub target: Option<String>,
}

/// Type of the answer to a [`CheckRequest`].
pub type CheckReport = Report;
