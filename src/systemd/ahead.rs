//! Starting a unit's placeholder before its turn: it needs its sandbox, and little of what the unit itself waits for.
//!
//! The sandbox must come out as it would have later: what is mounted by then, and what makes its paths, is waited for. In
//! doubt the unit starts in its turn.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use zbus::wire::{OwnedObjectPath, OwnedVariant, Variant};

use super::{I_SERVICE, I_UNIT, Systemd};

/// Name of the drop-in that keeps a unit from being started beside its checkpoint. It must sort last.
pub const DROP_IN: &str = "zz-kup-checkpoint.conf";

/// When a placeholder may start while the machine boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Start {
    /// Before its turn.
    Ahead {
        /// No job is queued for any of these.
        after: Vec<String>,
        /// These are there, which something makes anew in each boot.
        paths: Vec<String>,
    },
    /// Where it stands in the boot, for this reason.
    InItsTurn(String),
}

/// Settings that may take what comes up late, and settings for which systemd itself looks at other units.
const LATE: [(&str, &str); 18] = [
    (I_UNIT, "BindsTo"),
    (I_UNIT, "Requisite"),
    (I_UNIT, "JoinsNamespaceOf"),
    (I_UNIT, "TriggeredBy"),
    (I_UNIT, "StopWhenUnneeded"),
    (I_UNIT, "Asserts"),
    (I_SERVICE, "DynamicUser"),
    (I_SERVICE, "PAMName"),
    (I_SERVICE, "LogNamespace"),
    (I_SERVICE, "LoadCredential"),
    (I_SERVICE, "LoadCredentialEncrypted"),
    (I_SERVICE, "SetCredentialEncrypted"),
    (I_SERVICE, "ImportCredential"),
    (I_SERVICE, "MountImages"),
    (I_SERVICE, "ExtensionImages"),
    (I_SERVICE, "ExtensionDirectories"),
    (I_SERVICE, "NetworkNamespacePath"),
    (I_SERVICE, "IPCNamespacePath"),
];
/// Settings with paths that are left out of the sandbox where they do not exist.
const PATHS: [&str; 5] = ["ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths"];
/// The same with a source and a destination.
const BINDS: [&str; 2] = ["BindPaths", "BindReadOnlyPaths"];
/// What `ProtectHome=` hides where it exists, and tmpfiles.d(5) makes.
pub const USERS: &str = "/run/user";
/// What lies there is made anew in each boot, at some time.
const VOLATILE: [&str; 4] = ["/run", "/var/run", "/tmp", "/dev/shm"];
/// Behind all mounts of fstab(5); every unit comes after it, by way of others.
const LOCAL: &str = "local-fs.target";
/// Conditions that hold from the beginning of a boot or never.
const CONSTANT: [&str; 5] = [
    "ConditionArchitecture",
    "ConditionVirtualization",
    "ConditionHost",
    "ConditionKernelVersion",
    "ConditionSecurity",
];
/// Conditions on a path.
const ON_PATHS: [&str; 3] = ["ConditionPath", "ConditionFile", "ConditionDirectory"];

/// What systemd tells of a unit, by name.
type Properties = HashMap<String, OwnedVariant>;

impl Start {
    /// What has been found out in two moments: systemd forgets units that nothing needs any more, and with them what they are
    /// ordered before.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ahead { mut after, mut paths }, Self::Ahead { after: more, paths: more_paths }) => {
                after.extend(more);
                paths.extend(more_paths);
                for list in [&mut after, &mut paths] {
                    list.sort();
                    list.dedup();
                }
                Self::Ahead { after, paths }
            }
            (late @ Self::InItsTurn(_), _) | (_, late) => late,
        }
    }
}

impl Systemd {
    /// When the placeholder of `unit` may start, in a boot to come. `targets` is what each target is ordered after, as far as
    /// it was asked for.
    ///
    /// # Errors
    /// When systemd cannot load the unit.
    pub fn earliest(&self, unit: &str, targets: &mut HashMap<String, Vec<String>>) -> Result<Start> {
        let (of_unit, of_service) = (self.properties(unit, I_UNIT)?, self.properties(unit, I_SERVICE)?);
        if let Some(why) = late(&of_unit, &of_service) {
            return Ok(Start::InItsTurn(why));
        }
        let after = words(&of_unit, "After");
        let mut waits_for: Vec<String> = after.iter().filter(|u| is_awaited(u)).cloned().collect();
        // What is mounted before a target that it is ordered after is there when its turn comes.
        let targets_of = after.iter().filter(|u| u.ends_with(".target"));
        for target in targets_of.map(String::as_str).chain([LOCAL]) {
            let before = match targets.entry(target.to_owned()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(self.after(target)?),
            };
            waits_for.extend(before.iter().filter(|u| is_mount(u)).cloned());
        }
        waits_for.sort();
        waits_for.dedup();
        Ok(Start::Ahead { after: waits_for, paths: volatile(&of_service) })
    }

    /// `units`, and those whose jobs wait for them, be it by way of others: they are ordered behind.
    ///
    /// # Errors
    /// When systemd cannot load one.
    pub fn held_by<'a>(&self, units: impl Iterator<Item = &'a str>) -> Result<HashSet<String>> {
        behind(units.map(str::to_owned).collect(), &self.queued()?, |unit| self.before(unit))
    }

    /// Names of all units that a job is queued for.
    ///
    /// # Errors
    /// What systemd says.
    pub fn queued(&self) -> Result<HashSet<String>> {
        type Job = (u32, String, String, String, OwnedObjectPath, OwnedObjectPath);
        let jobs: Vec<Job> = self.manager("ListJobs", &())?;
        Ok(jobs.into_iter().map(|job| job.1).collect())
    }
}

/// `first`, and all of `queued` that can be reached from there.
fn behind(
    first: HashSet<String>,
    queued: &HashSet<String>,
    mut before: impl FnMut(&str) -> Result<Vec<String>>,
) -> Result<HashSet<String>> {
    let (mut found, mut open) = (first.clone(), Vec::from_iter(first));
    while let Some(unit) = open.pop() {
        for other in before(&unit)?.into_iter().filter(|other| queued.contains(other)) {
            if found.insert(other.clone()) {
                open.push(other);
            }
        }
    }
    Ok(found)
}

/// Of what a unit is ordered after, what its sandbox or its tasks may miss. systemd's own services are for the whole
/// machine; a restore waits for those that count before it starts anything.
fn is_awaited(unit: &str) -> bool {
    let ours = unit.starts_with("systemd-") || unit.starts_with("kup-");
    is_mount(unit) || (!ours && [".service", ".socket", ".device"].iter().any(|kind| unit.ends_with(kind)))
}

fn is_mount(unit: &str) -> bool {
    unit.ends_with(".mount") || unit.ends_with(".automount")
}

/// Why the unit has to wait for its turn.
fn late(unit: &Properties, service: &Properties) -> Option<String> {
    for (interface, name) in LATE {
        let properties = if interface == I_UNIT { unit } else { service };
        if properties.get(name).is_some_and(|v| !is_empty(v)) {
            return Some(format!("it has {name}="));
        }
    }
    let lasting = |word: &str| !word.ends_with(DROP_IN);
    let (kind, _) = conditions(unit).into_iter().find(|(kind, word)| lasting(word) && !is_constant(kind, word))?;
    Some(format!("its {kind}= may not hold yet"))
}

/// What its sandbox is to have that may not be there yet.
fn volatile(service: &Properties) -> Vec<String> {
    let own = words(service, "RuntimeDirectory");
    let own = |path: &str| {
        own.iter().any(|d| [format!("/run/{d}"), format!("/var/run/{d}")].iter().any(|d| is_below(path, d)))
    };
    paths(service).into_iter().filter(|path| is_volatile(path) && !own(path)).collect()
}

fn is_empty(value: &Variant<'_>) -> bool {
    match value {
        Variant::Bool(set) => !set,
        Variant::Str(text) => text.is_empty(),
        Variant::Array(list) => list.is_empty(),
        _ => true,
    }
}

fn is_constant(kind: &str, word: &str) -> bool {
    CONSTANT.contains(&kind)
        || (ON_PATHS.iter().any(|p| kind.starts_with(p))
            && kind != "ConditionPathIsMountPoint"
            && ["/usr/", "/etc/", "/bin/", "/sbin/", "/lib/"].iter().any(|top| word.starts_with(top)))
}

fn is_volatile(path: &str) -> bool {
    VOLATILE.iter().any(|top| is_below(path, top))
}

fn is_below(path: &str, top: &str) -> bool {
    Path::new(path).starts_with(top)
}

/// Every path that is to be made visible, hidden or changed in the sandbox.
fn paths(service: &Properties) -> Vec<String> {
    let plain = PATHS.iter().flat_map(|name| words(service, name));
    let binds = BINDS.iter().flat_map(|name| structures(service, name)).filter_map(|fields| text(&fields, 0));
    let hides = |value: &&OwnedVariant| <&str>::try_from(&***value).is_ok_and(|how| !how.is_empty() && how != "no");
    let users = service.get("ProtectHome").filter(hides).map(|_| USERS.to_owned());
    plain.map(|path| path.trim_start_matches(['-', '+']).to_owned()).chain(binds).chain(users).collect()
}

/// Kind and parameter of each condition.
fn conditions(unit: &Properties) -> Vec<(String, String)> {
    let conditions = structures(unit, "Conditions").into_iter();
    conditions.map(|fields| (text(&fields, 0).unwrap_or_default(), text(&fields, 3).unwrap_or_default())).collect()
}

/// A property that is a list of words; none where it is something else, or not known to this systemd.
fn words(properties: &Properties, name: &str) -> Vec<String> {
    let Some(Variant::Array(list)) = properties.get(name).map(|v| &**v) else { return Vec::new() };
    list.iter().filter_map(|v| <&str>::try_from(v).ok().map(str::to_owned)).collect()
}

/// The fields of each element of a list of structures.
fn structures<'a>(properties: &'a Properties, name: &str) -> Vec<Vec<&'a Variant<'static>>> {
    let Some(Variant::Array(list)) = properties.get(name).map(|v| &**v) else { return Vec::new() };
    let structures = list.iter().filter_map(|v| if let Variant::Structure(s) = v { Some(s) } else { None });
    structures.map(|s| s.fields().iter().collect()).collect()
}

fn text(fields: &[&Variant<'_>], at: usize) -> Option<String> {
    fields.get(at).and_then(|v| <&str>::try_from(*v).ok()).map(str::to_owned)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
