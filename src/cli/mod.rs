//! The `kup` command. It speaks to kupd over D-Bus and does nothing by itself; one file per verb or pair of verbs.

mod args;
mod check;
mod exit;
mod history;
mod mark;
mod model;
mod output;
mod plot;
mod progress;
mod status;
mod update;

use std::process::ExitCode;

use clap::Parser;
use zbus::Connection;
use zbus::names::WellKnownName;

pub use args::Cli;
pub use exit::Exit;

use crate::bus::proxy::ManagerProxy;
use crate::bus::{Error, NAME};
use args::Command;
use output::Output;

/// What each verb is given.
struct Context {
    conn: Connection,
    manager: ManagerProxy<'static>,
    out: Output,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = zbus::block_on(run(cli)).unwrap_or_else(|e| {
        eprintln!("kup: {}", e.message());
        Exit::from(&e)
    });
    exit.into()
}

/// Has kupd started, so that a failure of that is told from one of what is asked of it.
///
/// dbus-daemon does not learn that a unit could not start, and whoever asks next waits with the first caller for its time
/// limit; only the second answer is one to this question.
async fn start_kupd(conn: &Connection) -> Result<(), Error> {
    let bus = zbus::fdo::DBusProxy::new(conn).await?;
    let name = || WellKnownName::from_static_str_unchecked(NAME);
    if bus.name_has_owner(name().into()).await.is_ok_and(|owned| owned) {
        return Ok(());
    }
    let mut answer = bus.start_service_by_name(name(), 0).await;
    if matches!(answer, Err(zbus::fdo::Error::TimedOut(_))) {
        answer = bus.start_service_by_name(name(), 0).await;
    }
    let why = |e| Error::Failed(format!("kupd cannot be started ({e}); 'systemctl status kupd.service' says more"));
    answer.map(drop).map_err(why)
}

async fn run(cli: Cli) -> Result<Exit, Error> {
    let conn = Connection::system().await.map_err(|e| Error::Failed(format!("cannot reach the system bus: {e}")))?;
    start_kupd(&conn).await?;
    // Nothing is cached: kupd may come and go between two calls.
    let manager = ManagerProxy::builder(&conn).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    let context = Context { conn, manager, out: Output::new(cli.json) };
    match cli.command {
        Command::Preserve(args) => mark::preserve(&context, args).await,
        Command::Release(args) => mark::release(&context, args).await,
        Command::List => mark::list(&context).await,
        Command::Check(args) => check::check(&context, args).await,
        Command::Update(args) => update::update(&context, args).await,
        Command::Rollback(args) => update::rollback(&context, args).await,
        Command::Abort => update::abort(&context).await,
        Command::Status => status::status(&context).await,
        Command::History => history::history(&context).await,
        Command::Plot(args) => plot::plot(&context, args).await,
    }
}
