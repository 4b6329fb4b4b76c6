//! The `kup` command. It speaks to kupd over D-Bus and, but for checkpoints that root looks at, does nothing by itself; one
//! file per verb or pair of verbs.

mod args;
mod check;
mod exit;
mod history;
mod images;
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

/// What a verb needs that kupd has to do.
async fn kupd(out: Output) -> Result<Context, Error> {
    let conn = Connection::system().await.map_err(|e| Error::Failed(format!("cannot reach the system bus: {e}")))?;
    start_kupd(&conn).await?;
    // Nothing is cached: kupd may come and go between two calls.
    let manager = ManagerProxy::builder(&conn).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
    Ok(Context { conn, manager, out })
}

async fn run(cli: Cli) -> Result<Exit, Error> {
    let out = Output::new(cli.json);
    match cli.command {
        Command::Preserve(args) => mark::preserve(&kupd(out).await?, args).await,
        Command::Release(args) => mark::release(&kupd(out).await?, args).await,
        Command::List => mark::list(&kupd(out).await?).await,
        Command::Check(args) => check::check(&kupd(out).await?, args).await,
        Command::Update(args) => update::update(&kupd(out).await?, args).await,
        Command::Rollback(args) => update::rollback(&kupd(out).await?, args).await,
        Command::Abort => update::abort(&kupd(out).await?).await,
        Command::Status => status::status(&kupd(out).await?).await,
        Command::History => history::history(&kupd(out).await?).await,
        Command::Plot(args) => plot::plot(&kupd(out).await?, args).await,
        Command::Export(args) => images::export(out, &args),
        Command::Import(args) => images::import(out, &args),
    }
}
