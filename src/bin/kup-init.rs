//! The first process behind a kexec, in an initrd of ours. It links little: all of it is loaded into memory.

use std::process::ExitCode;

use kup::kernel::initrd::init;

fn main() -> ExitCode {
    match init::run() {
        Ok(never) => match never {},
        Err(e) => {
            init::tell(&format!("{e:#}"));
            ExitCode::FAILURE
        }
    }
}
