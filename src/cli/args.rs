//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exit::Exit;
use crate::unit::UnitName;
use crate::update::UpdateId;

/// Kernel updates that running services live through.
///
/// Mark the services that are to live on with 'kup preserve'. When the package manager has installed a new kernel,
/// 'kup update' checkpoints them, switches to that kernel without going through firmware and boot loader, and restores
/// them under it: with the same processes, the same memory and the same TCP connections.
#[derive(Debug, Parser)]
#[command(name = "kup", version, after_help = Exit::HELP, max_term_width = 100)]
pub struct Cli {
    /// Print JSON, for programs: one document, or for 'update' one line per event.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mark services so that they live through updates.
    ///
    /// Writes a drop-in with 'KUPPreserve=yes' for each unit; nothing else of the unit is changed, and a running service
    /// goes on running. Some directives stand in the way of a checkpoint (PrivateUsers=, for one): kup replaces them from
    /// the unit's next start on, and says so here. 'kup check' tells whether a unit can be preserved.
    Preserve(Preserve),
    /// Take the mark of services away.
    Release(Release),
    /// Show the marked services.
    List,
    /// Ask whether services could be preserved now, on this machine, over a switch to the next kernel.
    ///
    /// Prints what it finds, each with a stable id, a severity (note, warning, blocker), one sentence and a way out. Nothing
    /// is changed. Exits with 3 where there is a blocker.
    Check(Check),
    /// Update to the next kernel; the marked services live on.
    ///
    /// Checks, pins the boot loader to the running kernel, loads the target, checkpoints the marked services and switches.
    /// Every other process ends as in a reboot, this session too; so kup asks first when it runs on a terminal. Until the switch any failure leaves
    /// everything as it was. 'kup status' tells afterwards how it went.
    Update(Update),
    /// Go back to the kernel that the last update came from; the marked services live on.
    ///
    /// An update in the other direction: services are checkpointed as they are now, so nothing that they did since is lost.
    /// The old kernel boots by default from then on.
    Rollback(Rollback),
    /// Give up an update that is armed (after 'kup update --stage-only').
    Abort,
    /// Show the kernels, and the update that is under way or was the last one.
    ///
    /// Exits with 3, 6, 7 or 8 when that update was refused, aborted, failed (or units started cold), or fell back.
    Status,
    /// Show the updates that there were, oldest first.
    History,
    /// Draw an update: its phases over time, and the blackout, as SVG.
    ///
    /// 'kup plot > update.svg'. Whatever shows web pages shows the picture.
    Plot(Plot),
    /// Write the checkpoint of a service as plain images of CRIU.
    ///
    /// For 'crit', and for 'criu restore' on a machine where the service does not run. There is a checkpoint from the switch
    /// until the update ends. It holds the service's memory, unencrypted. For root alone; needs neither kupd nor the bus.
    Export(Images),
    /// Put images back that 'kup export' wrote, in place of the checkpoint.
    ///
    /// After the switch and before the restore, where 'kup-restore.service' was kept from starting; kup refuses at any other
    /// time. For root alone; needs neither kupd nor the bus.
    Import(Images),
}

/// Arguments of `kup preserve`.
#[derive(Debug, Args)]
pub struct Preserve {
    /// Service to mark; '.service' may be left out.
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
    /// Changes to the unit that only you can decide on, separated by commas: no-io-uring (io_uring looks as if the kernel
    /// had none; programs fall back to epoll), private-ipc (an IPC namespace of its own, for System V shared memory).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub adjust: Vec<String>,
    /// Command that tells, by its exit status, whether the unit is well after an update.
    #[arg(long, value_name = "COMMAND")]
    pub health_check: Option<String>,
    /// What the unit falls back on when the new kernel does not come up.
    #[arg(long, value_name = "WHAT")]
    pub fallback: Option<Fallback>,
    /// Where the unit's memory is kept over the switch.
    #[arg(long, value_name = "WHERE")]
    pub storage: Option<Storage>,
}

/// Values of `--storage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// In RAM where that can be, else on the disk.
    Auto,
    /// On the disk.
    Disk,
    /// In RAM, or there is no update.
    Ram,
}

/// Values of `--fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fallback {
    /// Its image on disk: the old kernel restores it.
    Disk,
    /// Nothing: it starts cold.
    None,
}

/// Arguments of `kup release`.
#[derive(Debug, Args)]
pub struct Release {
    /// Service to release.
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
}

/// Arguments of `kup check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Service to look at, marked or not; all marked ones where none is given.
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Kernel release to switch to; the staged one, else the newest installed one where it is not given.
    #[arg(long, value_name = "RELEASE")]
    pub target: Option<String>,
}

/// Arguments of `kup update`.
#[derive(Debug, Args)]
pub struct Update {
    /// Kernel release to switch to; the staged one, else the newest installed one where it is not given.
    #[arg(long, value_name = "RELEASE")]
    pub target: Option<String>,
    /// Accept a cold restart of this marked unit where it cannot be preserved. Can be given more than once.
    #[arg(long, value_name = "UNIT")]
    pub allow_restart: Vec<String>,
    /// Prepare everything and stop; 'systemctl kexec' then does the rest, 'kup abort' gives it up.
    #[arg(long)]
    pub stage_only: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `kup rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Accept a cold restart of this marked unit where it cannot be preserved. Can be given more than once.
    #[arg(long, value_name = "UNIT")]
    pub allow_restart: Vec<String>,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `kup plot`.
#[derive(Debug, Args)]
pub struct Plot {
    /// Which update, as 'kup history' shows it; the one that is under way or was the last one where it is not given.
    #[arg(value_name = "ID")]
    pub id: Option<UpdateId>,
}

/// Arguments of `kup export` and `kup import`.
#[derive(Debug, Args)]
pub struct Images {
    /// Service whose checkpoint it is; '.service' may be left out.
    #[arg(value_name = "UNIT")]
    pub unit: UnitName,
    /// Directory of the plain images, which others must not be able to write to; 'export' makes it, or takes an empty one.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_goes_anywhere_and_lists_split() {
        let cli = Cli::try_parse_from(["kup", "preserve", "a", "b", "--adjust", "no-io-uring,private-ipc", "--json"]);
        let Cli { json: true, command: Command::Preserve(p) } = cli.unwrap() else { panic!() };
        assert_eq!(p.units, ["a", "b"]);
        assert_eq!(p.adjust, ["no-io-uring", "private-ipc"]);
        assert!(Cli::try_parse_from(["kup", "preserve"]).is_err());
    }
}
