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

/// The scenarios named, or all that are not kept for `--all`. A name that is none's own stands for all that begin with it.
fn choose(args: &TestArgs) -> Result<Vec<&'static Scenario>> {
    let is_own = |name: &str| scenario::ALL.iter().any(|scenario| scenario.name == name);
    let means = |name: &str, scenario: &Scenario| {
        let rest = scenario.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || (rest.starts_with('-') && !is_own(name)))
    };
    for name in &args.names {
        if !scenario::ALL.iter().any(|scenario| means(name, scenario)) {
            bail!("there is no scenario `{name}`: `cargo lab test --list` shows them");
        }
    }
    let wanted = |scenario: &&Scenario| {
        let named = args.names.iter().any(|name| means(name, scenario));
        named || (args.names.is_empty() && (args.all || !scenario.all_only))
    };
    Ok(scenario::ALL.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn chosen(words: &[&str]) -> Result<Vec<&'static str>> {
        let cli = Cli::try_parse_from([&["cargo lab", "test"], words].concat())?;
        let Verb::Test(args) = cli.verb else { bail!("not a test") };
        Ok(choose(&args)?.iter().map(|scenario| scenario.name).collect())
    }

    #[test]
    fn a_name_may_stand_for_several() {
        assert_eq!(chosen(&["update"]).unwrap(), ["update"], "not update-thrice as well");
        let faults = chosen(&["faults"]).unwrap();
        assert!(faults.len() > 1, "{faults:?}");
        assert!(faults.iter().all(|name| name.starts_with("faults-")));
        assert_eq!(chosen(&["faults", "faults-kill"]).unwrap(), faults, "each once");
        for wrong in ["fault", "faults-", "nonsense"] {
            assert!(chosen(&[wrong]).unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names = chosen(&["--all"]).unwrap();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), scenario::ALL.len());
        assert!(chosen(&[]).unwrap().len() < names.len());
    }
}
