//! `kup preserve`, `kup release`, `kup list`.

use clap::ValueEnum;
use serde::Serialize;
use zbus::Variant;

use super::args::{Preserve, Release};
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
    let words = [("fallback", args.fallback.map(word)), ("storage", args.storage.map(word))];
    for (option, word) in words {
        if let Some(word) = word {
            options.insert(option, word.into());
        }
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

/// As it is written on the command line, which is what D-Bus takes.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
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
