//! Runs scenarios: one prepared state, machines that start from it, a queue, a report.

pub mod checks;
pub mod collect;
pub mod context;
pub mod pool;
pub mod report;
pub mod rundir;
pub mod table;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::{SoakArgs, TestArgs};
use crate::scenario::{self, Scenario};
use pool::Options;
use report::Report;

/// `cargo lab test`: gives the exit code.
pub fn test(args: &TestArgs) -> Result<u8> {
    if args.list {
        list(scenario::ALL);
        return Ok(0);
    }
    let chosen = choose(args)?;
    let report = Report::default();
    let until = args.within().map(|time| Instant::now() + time);
    if args.names.is_empty() && !args.keep {
        checks::run(&report)?;
    }
    let options = Options { jobs: args.jobs(), keep: args.keep, until, storage: args.storage, ..Options::default() };
    pool::run(&chosen, options, &report)?;
    Ok(report.finish())
}

/// How long one update of a soak may take, and what is looked at after it.
const AN_UPDATE: Duration = Duration::from_secs(600);

/// `cargo lab soak`: gives the exit code.
pub fn soak(args: &SoakArgs) -> Result<u8> {
    scenario::soak::UPDATES.store(args.updates, Ordering::Relaxed);
    let report = Report::default();
    let limit = AN_UPDATE * (args.updates + 2);
    pool::run(&[&scenario::soak::SCENARIO], Options { aloud: true, limit, ..Options::default() }, &report)?;
    Ok(report.finish())
}

/// Prints names and what they are about.
pub fn list(scenarios: &[Scenario]) {
    for scenario in scenarios {
        let only = if scenario.all_only { " (with --all)" } else { "" };
        println!("{:24} {}{only}", scenario.name, scenario.about);
    }
}

/// The scenarios named, or all that are not kept for `--all`.
fn choose(args: &TestArgs) -> Result<Vec<&'static Scenario>> {
    for name in &args.names {
        if !scenario::ALL.iter().any(|scenario| scenario.name == name) {
            bail!("there is no scenario `{name}`: `cargo lab test --list` shows them");
        }
    }
    let wanted = |scenario: &&Scenario| {
        let named = args.names.iter().any(|name| name == scenario.name);
        named || (args.names.is_empty() && (args.all || !scenario.all_only))
    };
    Ok(scenario::ALL.iter().filter(wanted).collect())
}
