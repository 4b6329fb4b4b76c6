//! The `cargo lab` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match kup_lab::run(&kup_lab::cli::Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
