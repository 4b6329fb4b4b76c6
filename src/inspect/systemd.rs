//! What systemd knows of a unit.

use std::collections::BTreeMap;
use std::process::Command;

use super::InspectError;
use crate::unit::UnitName;

/// The properties that are asked for, org.freedesktop.systemd1(5).
const PROPERTIES: [&str; 26] = [
    "LoadState",
    "ActiveState",
    "SubState",
    "MainPID",
    "ControlGroup",
    "Type",
    "PIDFile",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "RootDirectory",
    "RootImage",
    "PrivateTmp",
    "PrivateUsers",
    "PrivatePIDs",
    "DynamicUser",
    "NoExecPaths",
    "ExecPaths",
    "Delegate",
    "TriggeredBy",
    "NFileDescriptorStore",
    "NeedDaemonReload",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "MemoryDenyWriteExecute",
    "ExecMainStartTimestampMonotonic",
];

/// A unit as systemd runs it, which may be older than its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    properties: BTreeMap<String, String>,
}

impl Service {
    /// Parses what `systemctl show` prints: a line `NAME=VALUE` for each property.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|l| l.split_once('='));
        Self { properties: pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    /// A property's value as systemctl shows it; empty where it is unset or this systemd does not know it.
    pub fn get(&self, property: &str) -> &str {
        self.properties.get(property).map_or("", String::as_str)
    }

    /// The main process.
    pub fn main_pid(&self) -> Option<i32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    /// Its control group, from the root of the control group file system.
    pub fn control_group(&self) -> Option<&str> {
        Some(self.get("ControlGroup")).filter(|g| !g.is_empty())
    }

    /// Whether it is running (or on its way up, reloading).
    pub fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading" | "refreshing" | "activating")
    }

    /// Whether there is such a unit at all.
    pub fn is_loaded(&self) -> bool {
        self.get("LoadState") == "loaded"
    }

    /// A boolean property; absent counts as false.
    pub fn bool(&self, property: &str) -> bool {
        self.get(property) == "yes"
    }

    /// The words of a list property.
    pub fn list(&self, property: &str) -> impl Iterator<Item = &str> {
        self.get(property).split_ascii_whitespace()
    }
}

/// Asks systemd about `unit`, in one call.
pub fn show(unit: &UnitName) -> Result<Service, InspectError> {
    let fail = |reason: String| InspectError::Systemd { unit: unit.clone(), reason };
    let mut command = Command::new("systemctl");
    command.args(["show", "--no-pager"]).env("LC_ALL", "C").env("SYSTEMD_PAGER", "");
    command.arg(format!("--property={}", PROPERTIES.join(","))).arg("--").arg(unit.as_str());
    let output = command.output().map_err(|e| fail(format!("systemctl: {e}")))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    Ok(Service::parse(&String::from_utf8_lossy(&output.stdout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown() {
        let text = "Type=notify\nMainPID=512\nControlGroup=/system.slice/a.service\nActiveState=active\n\
                    RuntimeDirectory=redis other\nExecPaths=\nPrivateTmp=yes\nLoadState=loaded\n";
        let s = Service::parse(text);
        assert_eq!(s.main_pid(), Some(512));
        assert_eq!(s.control_group(), Some("/system.slice/a.service"));
        assert!(s.is_active() && s.is_loaded() && s.bool("PrivateTmp"));
        assert_eq!(s.list("RuntimeDirectory").collect::<Vec<_>>(), ["redis", "other"]);
        let dead = Service::parse("MainPID=0\nControlGroup=\nActiveState=inactive\n");
        assert_eq!((dead.main_pid(), dead.control_group(), dead.is_active()), (None, None, false));
    }
}
