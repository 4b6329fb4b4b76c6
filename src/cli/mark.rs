//! `kup preserve`, `kup release`, `kup list`.

use serde::Serialize;
use zbus::Variant;

use super::args::{Fallback, Preserve, Release, Storage};
use super::model::List;
use super::{Context, Exit, output};
use crate::bus::Error;
use crate::bus::proxy::Options;

/// What became of one unit.
#[derive(Serialize)]
struct Marked {
    unit: String,
    /// What is to be known about it; a line each.
    notes: Vec<String>,
    /// Why it was left as it was.
    error: Option<String>,
}

pub(super) async fn preserve(context: &Context, args: Preserve) -> Result<Exit, Error> {
    let mut options = Options::new();
    if !args.adjust.is_empty() {
        options.insert("adjust", Variant::from(args.adjust.clone()));
    }
    if let Some(command) = &args.health_check {
        options.insert("health-check", command.as_str().into());
    }
    if let Some(fallback) = args.fallback {
        let word = match fallback {
            Fallback::Disk => "disk",
            Fallback::None => "none",
        };
        options.insert("fallback", word.into());
    }
    if let Some(storage) = args.storage {
        let word = match storage {
            Storage::Auto => "auto",
            Storage::Disk => "disk",
            Storage::Ram => "ram",
        };
        options.insert("storage", word.into());
    }
    let mut marked = Vec::new();
    for unit in args.units {
        let answer = context.manager.preserve(&unit, &options).await;
        marked.push((unit, answer.map_err(Error::from)));
    }
    Ok(show(context, marked, "is preserved over updates"))
}

pub(super) async fn release(context: &Context, args: Release) -> Result<Exit, Error> {
    let mut released = Vec::new();
    for unit in args.units {
        let answer = context.manager.release(&unit).await;
        released.push((unit, answer.map_err(Error::from)));
    }
    Ok(show(context, released, "is not preserved any more"))
}

pub(super) async fn list(context: &Context) -> Result<Exit, Error> {
    let (units, problems) = context.manager.list_units().await?;
    let list = List { units, problems };
    context.out.show(&list, output::list);
    for problem in &list.problems {
        eprintln!("kup: {problem}");
    }
    Ok(if list.problems.is_empty() { Exit::Ok } else { Exit::Failure })
}

/// Each unit is done for itself; the exit code is that of the first one that was not.
fn show(context: &Context, units: Vec<(String, Result<String, Error>)>, done: &str) -> Exit {
    let failed = units.iter().find_map(|(_, answer)| answer.as_ref().err()).map(Exit::from);
    let units: Vec<_> = units
        .into_iter()
        .map(|(unit, answer)| match answer {
            Ok(note) => Marked { unit, notes: note.lines().map(String::from).collect(), error: None },
            Err(e) => Marked { unit, notes: Vec::new(), error: Some(e.message().into()) },
        })
        .collect();
    context.out.show(&units, |units| {
        let good = units.iter().filter(|u| u.error.is_none());
        good.map(|u| {
            let notes: String = u.notes.iter().map(|n| format!("  {n}\n")).collect();
            format!("{} {done}\n{notes}", u.unit)
        })
        .collect()
    });
    for error in units.iter().filter_map(|u| u.error.as_ref()) {
        eprintln!("kup: {error}");
    }
    failed.unwrap_or(Exit::Ok)
}
