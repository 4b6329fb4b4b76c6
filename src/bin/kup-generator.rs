//! The systemd generator (systemd.generator(7)). Runs before every unit, so it links little, waits for nothing and
//! never fails a boot.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use kup::generator;
use kup::paths::Paths;

fn main() -> ExitCode {
    let Some(normal) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("kup-generator: wants the output directories that systemd hands to generators");
        return ExitCode::FAILURE;
    };
    // The initrd is not the system whose units are preserved.
    if env::var_os("SYSTEMD_IN_INITRD").is_some_and(|v| v == "1") {
        return ExitCode::SUCCESS;
    }
    match generator::run(&Paths::host(), &normal, soft_reboots() > 0, &mut log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log(&format!("cannot write below {}: {e}", normal.display()));
            ExitCode::FAILURE
        }
    }
}

/// How often userspace was restarted on this kernel; systemd tells its generators.
fn soft_reboots() -> u64 {
    env::var("SYSTEMD_SOFT_REBOOTS_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The journal is not there yet; /dev/kmsg is (priority 4, warning, of the daemon facility).
fn log(line: &str) {
    let line = line.replace('\n', " ");
    let kmsg = OpenOptions::new().write(true).open("/dev/kmsg");
    let written = kmsg.and_then(|mut k| k.write_all(format!("<28>kup-generator: {line}\n").as_bytes()));
    if written.is_err() {
        println!("kup-generator: {line}");
    }
}
