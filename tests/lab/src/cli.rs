//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Minutes. The whole test is to take less than an hour, also where a machine is several times slower than usual.
const WITHIN: u64 = 40;

/// Runs kup in a real Debian virtual machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", about, version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the lab can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// The main job, start to finish: an update that running services live through
    Demo,
    /// Run tests: everything, or the scenarios named
    Test(TestArgs),
    /// Measure
    Bench(BenchArgs),
    /// Many updates in a row, under load
    Soak(SoakArgs),
    /// Look for inputs that break kup's parsers
    Fuzz(FuzzArgs),
    /// A machine to try things in
    Vm(VmArgs),
    /// Build kup as a Debian package
    Deb,
    /// Build the kernel with the patches of kernel-patches/
    Kernel,
}

/// `cargo lab test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Scenarios (`faults` stands for all `faults-…`); without a name, the checks that need no machine run first, then all scenarios
    pub names: Vec<String>,
    /// Only show what there is
    #[arg(long)]
    pub list: bool,
    /// Also the scenarios that take long
    #[arg(long)]
    pub all: bool,
    /// Machines at a time [default: 2, on a single core 1]
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Minutes after which no scenario is begun any more, but those that matter most [default: 40 where neither a name
    /// nor --all is given]
    #[arg(long, value_name = "MINUTES")]
    pub within: Option<u64>,
    /// Stop at the first failure and leave its machine running (see `cargo lab vm`)
    #[arg(long)]
    pub keep: bool,
    /// Where services' memory is over the switch, in scenarios that are not about it [default: kup's]
    #[arg(long)]
    pub storage: Option<Storage>,
}

/// A store of kup's.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Storage {
    /// Files.
    Disk,
    /// Physical memory that the kexec leaves alone.
    Ram,
}

impl TestArgs {
    /// Machines at a time.
    pub fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.jobs.unwrap_or(cores.min(2)).max(1)
    }

    /// How long scenarios are begun; `None` without an end.
    pub fn within(&self) -> Option<Duration> {
        let unasked = (self.names.is_empty() && !self.all).then_some(WITHIN);
        self.within.or(unasked).map(|minutes| Duration::from_secs(60 * minutes))
    }
}

/// `cargo lab soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// How many
    #[arg(long, default_value_t = 50)]
    pub updates: u32,
}

/// `cargo lab bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Benchmarks; all without a name
    pub names: Vec<String>,
    /// Only show what there is
    #[arg(long)]
    pub list: bool,
    /// Also write the figures to this file, beside those in target/lab/bench
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Memory of the machine in MiB
    #[arg(long, default_value_t = 4096)]
    pub memory: u32,
}

/// `cargo lab fuzz`.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// Targets; all without a name
    pub names: Vec<String>,
    /// Only show what there is
    #[arg(long)]
    pub list: bool,
    /// How long each target is run
    #[arg(long, default_value_t = 600)]
    pub seconds: u64,
}

/// `cargo lab vm`: without options, an interactive shell in a fresh machine.
#[derive(Debug, Args)]
pub struct VmArgs {
    /// Run one command in a fresh machine, then end it
    #[arg(long, value_name = "CMD", group = "what")]
    pub run: Option<String>,
    /// Leave the machine running in the background
    #[arg(long, group = "what")]
    pub detach: bool,
    /// A machine without kup
    #[arg(long)]
    pub bare: bool,
    /// A fresh machine with UEFI and systemd-boot
    #[arg(long)]
    pub uefi: bool,
    /// Memory of a fresh machine in MiB
    #[arg(long, default_value_t = 2048)]
    pub memory: u32,
    /// Run a command in the detached machine
    #[arg(long, value_name = "CMD", group = "what")]
    pub exec: Option<String>,
    /// Copy a file or directory into the detached machine
    #[arg(long, num_args = 2, value_names = ["LOCAL", "REMOTE"], group = "what")]
    pub put: Option<Vec<PathBuf>>,
    /// Copy a file or directory out of the detached machine
    #[arg(long, num_args = 2, value_names = ["REMOTE", "LOCAL"], group = "what")]
    pub get: Option<Vec<PathBuf>>,
    /// Put the detached machine back into its ready state
    #[arg(long, group = "what")]
    pub reset: bool,
    /// Cut the detached machine's power and boot it again
    #[arg(long, group = "what")]
    pub power_cut: bool,
    /// Wait until the detached machine can be reached
    #[arg(long, group = "what")]
    pub wait: bool,
    /// A shell in the detached machine
    #[arg(long, group = "what")]
    pub shell: bool,
    /// Run a command of this host as the detached machine's peer, in its network
    #[arg(long, value_name = "CMD", group = "what")]
    pub peer: Option<String>,
    /// End the detached machine
    #[arg(long, group = "what")]
    pub stop: bool,
}

impl VmArgs {
    /// Is the machine meant that runs in the background?
    pub fn acts_on_detached(&self) -> bool {
        let flags = [self.reset, self.power_cut, self.wait, self.shell, self.stop];
        flags.contains(&true)
            || [&self.exec, &self.peer].iter().any(|cmd| cmd.is_some())
            || self.put.is_some()
            || self.get.is_some()
    }
}
