//! Directives of a unit that stand in the way of its preservation, and what is put in their place from its next start.

use super::preserve::{Adjust, PreserveSpec};
use super::{UnitFile, parse};

/// The program that a unit's fresh sandbox must be able to execute.
pub const PLACEHOLDER: &str = "/usr/libexec/kup/kup-placeholder";

/// io_uring's system calls look as if the kernel had none of them.
const NO_IO_URING: &str = "~io_uring_setup:ENOSYS io_uring_enter:ENOSYS io_uring_register:ENOSYS";

/// One directive in `[Service]` of a unit that kup's generator adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// The directive's name, such as `PrivateUsers`.
    pub directive: &'static str,
    /// Its value.
    pub value: String,
    /// One clause: what would go wrong without it.
    pub why: &'static str,
}

/// An adjustment that was asked for and cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for.
    pub adjust: Adjust,
    /// One sentence: why not, and what to do instead.
    pub why: String,
}

/// What `unit` needs so that it can be preserved. Looks at the unit's own files only, not at what was adjusted before.
pub fn adjustments(unit: &UnitFile, spec: &PreserveSpec) -> Vec<Adjustment> {
    let unit = unit.without_generated();
    let mut found = Vec::new();
    if let Some(users) = unit.get("Service", "PrivateUsers")
        && parse::boolean(users.as_str()) != Some(false)
    {
        let why = "a process in a user namespace of its own cannot be checkpointed";
        found.push(Adjustment { directive: "PrivateUsers", value: "no".into(), why });
    }
    if !unit.all("Service", "NoExecPaths").is_empty() {
        let why = "NoExecPaths= would keep the placeholder from being executed in the restored sandbox";
        found.push(Adjustment { directive: "ExecPaths", value: PLACEHOLDER.into(), why });
    }
    for adjust in &spec.adjust {
        match adjust {
            Adjust::NoIoUring if has_allow_list(&unit) => {}
            Adjust::NoIoUring => {
                let why = "an io_uring ring cannot be checkpointed; programs fall back to epoll or libaio";
                found.push(Adjustment { directive: "SystemCallFilter", value: NO_IO_URING.into(), why });
            }
            Adjust::PrivateIpc => {
                let why = "System V shared memory can be checkpointed in an IPC namespace of its own only";
                found.push(Adjustment { directive: "PrivateIPC", value: "yes".into(), why });
            }
        }
    }
    found
}

/// The adjustments that `spec` asks for and `unit` cannot take.
pub fn refusals(unit: &UnitFile, spec: &PreserveSpec) -> Vec<Refusal> {
    let unit = unit.without_generated();
    if !spec.adjust.contains(&Adjust::NoIoUring) || !has_allow_list(&unit) {
        return Vec::new();
    }
    let why = "SystemCallFilter= is an allow-list, to which system calls that fail with ENOSYS cannot be added (systemd \
               fails the start with 228/SECCOMP); take io_uring_setup, io_uring_enter and io_uring_register out of the \
               list instead";
    vec![Refusal { adjust: Adjust::NoIoUring, why: why.into() }]
}

/// systemd.exec(5): whichever kind comes first decides.
fn has_allow_list(unit: &UnitFile) -> bool {
    unit.all("Service", "SystemCallFilter").first().is_some_and(|f| !f.starts_with('~'))
}
