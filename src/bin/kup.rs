//! The `kup` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    kup::cli::main()
}
