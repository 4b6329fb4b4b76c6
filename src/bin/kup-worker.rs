//! The privileged half of kup: one verb per unit that runs it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use kup::cli::Exit;
use kup::paths::Paths;
use kup::unit::UnitName;
use kup::{journal, update, worker};

/// How many files may be open.
const FILES: u64 = 1 << 16;

#[derive(Parser)]
#[command(name = "kup-worker", about = "Run by kup's units; not to be called by hand", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answers the check that kupd asked for (kup-check.service)
    Check,
    /// Checks and arms the update that kupd asked for (kup-update.service)
    Update,
    /// Gives up an armed update (kup-abort.service)
    Abort,
    /// Waits for the package manager, then asks for an update (kup-automatic.service)
    Automatic,
    /// Checkpoints all units, while the machine shuts down (kup-checkpoint.service)
    Checkpoint,
    /// Holds packets back in the new boot (kup-netlock.service)
    Netlock,
    /// Puts links back in the new boot (kup-links.service)
    Links,
    /// Restores all units (kup-restore.service)
    Restore,
    /// Gives an update up whose worker died before the switch (kup-update.service)
    RecoverArming,
    /// Gives a checkpoint up that died half-way (kup-checkpoint.service)
    RecoverCheckpoint,
    /// Brings the memory of a restored unit back (kup-pager@.service)
    Pager { unit: UnitName },
    /// Ends a unit whose memory cannot be brought back (kup-lost@.service)
    Lost { unit: UnitName },
    /// Asks the restored units how they are (kup-assess.service)
    Assess,
    /// Blesses the new kernel (kup-bless.service)
    Bless,
    /// Goes back to the old kernel, or ends an unfinished update (kup-settle.service)
    Settle,
    /// Keeps low PIDs for the kernel's own threads (kup-pid-floor.service)
    PidFloor,
    /// Tells systemd of a restored main process; started in its control group
    #[command(hide = true)]
    Notify { main_pid: i32 },
    /// The process that the canary of a check dumps and restores
    #[command(hide = true)]
    CanaryChild,
}

fn run(verb: Verb) -> Result<()> {
    let paths = Paths::host();
    match verb {
        Verb::Check => worker::check(&paths),
        Verb::Update => worker::update(&paths),
        Verb::Abort => worker::abort(&paths),
        Verb::Automatic => worker::automatic(&paths),
        Verb::Checkpoint => update::checkpoint::run(&paths),
        Verb::Netlock => worker::netlock(&paths),
        Verb::Links => worker::links(&paths),
        Verb::Restore => update::restore::run(&paths),
        Verb::RecoverArming => update::recover::arming(&paths),
        Verb::RecoverCheckpoint => update::recover::checkpoint(&paths),
        Verb::Pager { unit } => update::memory::bring(&paths, &unit),
        Verb::Lost { unit } => update::memory::lost(&paths, &unit),
        Verb::Assess => update::bless::assess(&paths),
        Verb::Bless => update::bless::run(&paths),
        Verb::Settle => update::settle::run(&paths),
        Verb::PidFloor => worker::pid_floor(&paths),
        Verb::Notify { main_pid } => worker::notify(main_pid),
        Verb::CanaryChild => kup::preflight::canary::child(),
    }
}

fn main() -> ExitCode {
    journal::init("kup-worker");
    // A unit may have many processes, replaced files and connections: each is a descriptor, here or in a CRIU.
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let raised = limits.and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most.min(FILES), most));
    if let Err(e) = raised {
        tracing::warn!("the limit of open files stays as it is: {e}");
    }
    #[cfg(feature = "failpoints")]
    let _faults = kup::faults::set_up();
    let result = Args::try_parse().context("see kup-worker --help").and_then(|args| run(args.verb));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            // kup-update.service has SuccessExitStatus= for it: what is at fault is not the unit.
            if e.is::<update::arm::Refused>() { Exit::Blocked.into() } else { ExitCode::FAILURE }
        }
    }
}
