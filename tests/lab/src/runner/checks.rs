//! The part of the tests that needs no machine: format, lints, unit tests.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::report::Report;
use crate::{paths, sh};

/// Runs all of them; each is one result, except that every unit test counts by itself.
pub fn run(report: &Report) -> Result<()> {
    cargo(report, "fmt", &["fmt", "--all", "--check"])?;
    cargo(report, "fmt (tests/fuzz)", &["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"])?;
    cargo(report, "clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    unit_tests(report)
}

fn command(args: &[&str]) -> Command {
    let mut cmd = sh::cargo();
    cmd.args(args).current_dir(paths::source()).stdin(Stdio::null());
    cmd
}

fn cargo(report: &Report, name: &str, args: &[&str]) -> Result<()> {
    let started = Instant::now();
    let out = sh::capture(&mut command(args), None, None)?;
    if out.ok() {
        report.ok(name, started.elapsed());
    } else {
        print!("{}{}", out.stdout, out.stderr);
        report.failed(name, &format!("`cargo {}` ended with {}", args.join(" "), out.code));
    }
    Ok(())
}

fn unit_tests(report: &Report) -> Result<()> {
    let started = Instant::now();
    let out = sh::capture(&mut command(&["test", "--workspace", "--no-fail-fast"]), None, None)
        .context("cannot run the unit tests")?;
    let (passed, failed) = count(&out.stdout);
    if out.ok() {
        println!("ok unit tests: {passed} passed ({:.1} s)", started.elapsed().as_secs_f64());
    } else {
        print!("{}{}", out.stdout, out.stderr);
        // Not even compiling is one failure.
        println!("FAILED unit tests: {passed} passed, {} failed", failed.max(1));
    }
    report.add(passed, if out.ok() { failed } else { failed.max(1) });
    Ok(())
}

/// Sums up the `test result:` lines of all test programs.
fn count(text: &str) -> (u32, u32) {
    let mut sums = (0, 0);
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("test result:")) {
        let words: Vec<&str> = line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u32>() else { continue };
            match pair[1] {
                "passed" => sums.0 += number,
                "failed" => sums.1 += number,
                _ => {}
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn results_of_all_programs_are_summed_up() {
        let text = "running 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            3 passed elsewhere\n\
            test result: FAILED. 40 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.20s\n";
        assert_eq!(count(text), (42, 1));
        assert_eq!(count("error: could not compile"), (0, 0));
    }
}
