//! kupd: the bus service `org.kup1`. Started by the bus on demand, it leaves when nobody needs it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kup::bus::{Daemon, IDLE, Logs};
use kup::paths::Paths;

/// The bus service of kup. It is started by the bus when it is needed; there is no reason to start it by hand.
#[derive(Parser)]
#[command(name = "kupd", version)]
struct Args {
    /// Read and write below this directory.
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
    /// Leave after so many milliseconds without use.
    #[arg(long, hide = true, default_value_t = IDLE.as_millis() as u64)]
    idle: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let served = Logs::start().and_then(|logs| {
        let daemon = Daemon::new(Paths::below(args.root));
        zbus::block_on(daemon.serve(logs, Duration::from_millis(args.idle)))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}
