//! The scenarios of `cargo lab test`, one file each.

mod abort;
mod afterwards;
mod automatic;
mod boot;
mod cancelled;
mod concurrent;
mod confinement;
mod criu;
mod dbus;
mod encryption;
mod fallback;
mod faults;
mod killed;
mod large;
mod package;
mod packages;
mod pager;
mod pager_users;
mod plain;
mod ram;
mod refuse;
mod restore_failure;
mod resume_once;
mod rollback;
mod security;
mod shutdowns;
pub mod soak;
mod storage;
mod systemd_boot;
mod thrice;
mod turncoat;
mod units;
pub mod update;
mod with_libc;

use anyhow::Result;

use crate::runner::context::Ctx;

/// Something that is done in a machine and either holds or does not.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// The saved state that it starts from: [`READY`](crate::ready::READY), [`STAGED`](crate::ready::STAGED), or
    /// [`SYSTEMD_BOOT`](crate::ready::SYSTEMD_BOOT) on a machine of that kind.
    pub from: &'static str,
    /// Is it left out unless `--all` asks for it?
    pub all_only: bool,
    /// Does it; an error is a failure.
    pub run: fn(&mut Ctx) -> Result<()>,
}

/// How many of [`ALL`] are run however long they take; those behind them only while there is time.
pub const CORE: usize = 5;
/// All of them, in the order in which they are run: what matters most comes first.
pub const ALL: &[Scenario] = &[
    update::SCENARIO,
    units::SCENARIO,
    abort::SCENARIO,
    package::SCENARIO,
    fallback::PANIC,
    thrice::SCENARIO,
    confinement::SCENARIO,
    refuse::SCENARIO,
    fallback::HEALTH,
    rollback::SCENARIO,
    restore_failure::SCENARIO,
    automatic::SCENARIO,
    afterwards::SCENARIO,
    with_libc::SCENARIO,
    packages::SCENARIO,
    dbus::SCENARIO,
    boot::SCENARIO,
    ram::SCENARIO,
    systemd_boot::SCENARIO,
    fallback::HANG_KERNEL,
    fallback::HANG_PID1,
    fallback::STUCK,
    fallback::EMERGENCY,
    fallback::POWER_CUT,
    fallback::SYSTEMD_BOOT_PANIC,
    fallback::GRUB_UEFI,
    fallback::NONE,
    fallback::BOOT_TIMEOUT,
    fallback::NO_LOOP,
    fallback::NO_LOOP_EARLY,
    resume_once::SCENARIO,
    concurrent::SCENARIO,
    cancelled::SCENARIO,
    shutdowns::SCENARIO,
    security::SCENARIO,
    storage::SCENARIO,
    large::SCENARIO,
    pager::SCENARIO,
    pager_users::SCENARIO,
    plain::SCENARIO,
    criu::SCENARIO,
    killed::SCENARIO,
    encryption::SCENARIO,
    encryption::TPM,
    ram::AUTO,
    ram::RESET,
    soak::SCENARIO,
    faults::SCENARIOS[0],
    faults::SCENARIOS[1],
    faults::SCENARIOS[2],
    faults::SCENARIOS[3],
    faults::SCENARIOS[4],
    faults::SCENARIOS[5],
    faults::SCENARIOS[6],
];
