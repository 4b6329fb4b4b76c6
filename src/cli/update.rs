//! `kup update`, `kup abort`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use zbus::names::InterfaceName;
use zbus::{ObjectPath, Variant};
use zruntime::SharedRuntime;

use super::args;
use super::model::Update;
use super::progress::Progress;
use super::status::{ended, read};
use super::{Context, Exit};
use crate::bus::proxy::Options;
use crate::bus::{Error, NAME, NO_OBJECT, next};

/// An update whose kupd has gone silent is looked at so often.
const LOOK: Duration = Duration::from_secs(2);

pub(super) async fn update(context: &Context, args: args::Update) -> Result<Exit, Error> {
    if !args.yes && !args.stage_only && is_attended() {
        let staged = context.manager.staged_kernel().await?;
        let newest = if staged.is_empty() { "the newest kernel".into() } else { staged };
        if !confirm(context, args.target.as_ref().unwrap_or(&newest)).await? {
            return Ok(Exit::Failure);
        }
    }
    let mut options = Options::new();
    if let Some(target) = &args.target {
        options.insert("target", target.as_str().into());
    }
    if !args.allow_restart.is_empty() {
        options.insert("allow-restart", Variant::from(args.allow_restart.clone()));
    }
    options.insert("stage-only", args.stage_only.into());
    let path = context.manager.update(&options).await?;
    follow(context, &path).await
}

pub(super) async fn rollback(context: &Context, args: args::Rollback) -> Result<Exit, Error> {
    if !args.yes && is_attended() && !confirm(context, "the kernel before the last update").await? {
        return Ok(Exit::Failure);
    }
    let mut options = Options::new();
    if !args.allow_restart.is_empty() {
        options.insert("allow-restart", Variant::from(args.allow_restart));
    }
    options.insert("rollback", true.into());
    let path = context.manager.update(&options).await?;
    follow(context, &path).await
}

/// Without a terminal there is nobody to ask, and whoever wrote the script has decided.
fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

pub(super) async fn abort(context: &Context) -> Result<Exit, Error> {
    let current = context.manager.current_update().await?;
    let ended = current.as_str() != NO_OBJECT && read(&context.conn, &current).await?.is_final();
    context.manager.abort().await?;
    let (event, text) = if ended {
        ("unpinned", "the boot loader is not pinned any more")
    } else {
        ("aborted", "the update is given up; all is as it was before")
    };
    context.out.event(&serde_json::json!({ "event": event }), text);
    Ok(Exit::Ok)
}

/// Asks whether to go ahead.
async fn confirm(context: &Context, target: &str) -> Result<bool, Error> {
    let (units, _) = context.manager.list_units().await?;
    let units: Vec<_> = units.iter().map(|u| u.unit.as_str()).collect();
    eprintln!("This machine switches to {target}. Every session ends, and every service restarts but these:");
    eprintln!("  {}", if units.is_empty() { "(none)".into() } else { units.join(" ") });
    eprint!("Go ahead? [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(|e| Error::Failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// Follows the update until it ends, rests, or takes this session with it.
async fn follow(context: &Context, path: &ObjectPath<'_>) -> Result<Exit, Error> {
    let runtime = SharedRuntime::current().map_err(|e| Error::Failed(format!("no runtime: {e}")))?;
    let properties = zbus::fdo::PropertiesProxy::new(&context.conn, NAME, path).await?;
    let name = InterfaceName::from_static_str_unchecked("org.kup1.Update");
    let mut changes = properties.receive_properties_changed_with_args(&[(0, name.as_str())]).await?;
    let mut progress = Progress::new(context.out);
    let mut last: Option<Update> = None;
    loop {
        match read(&context.conn, path).await {
            Ok(update) => {
                progress.show(&update);
                if update.is_final() || (update.stage_only && update.state == "armed") {
                    progress.end(&update);
                    return Ok(ended(&update));
                }
                last = Some(update);
            }
            Err(e) => return gone(last, &mut progress, e),
        }
        // A change, or (kupd may have been replaced by another one, which knows nothing of this match) some time.
        if let Ok(None) = runtime.timeout(LOOK, next(&mut changes)).await {
            return gone(last, &mut progress, Error::Failed("the connection to the bus was lost".into()));
        }
    }
}

/// kupd does not answer any more. Once the update is armed this is the switch; before it is a failure.
fn gone(last: Option<Update>, progress: &mut Progress, e: Error) -> Result<Exit, Error> {
    match last {
        Some(update) if matches!(update.state.as_str(), "armed" | "checkpointing" | "switching") => {
            progress.switch(&update);
            Ok(Exit::Ok)
        }
        _ => Err(e),
    }
}
