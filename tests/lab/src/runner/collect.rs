//! Evidence of a failed scenario: console, journal, kup's own files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::context::Ctx;
use crate::sh;

const LIMIT: Duration = Duration::from_secs(90);

/// What the machine said last, beyond what it says when all is well. It is printed: where scenarios run on a machine that
/// nobody can log in to, its files are out of reach.
pub const SAID: &str = "said.txt";
/// kup's state and configuration without process memory, as a tar archive on standard output.
const KUP_FILES: &str = "cd / && find var/lib/kup etc/kup etc/systemd/system etc/default/grub.d boot/grub/grubenv boot/efi/loader run/kup \
    run/systemd/generator run/systemd/generator.early run/systemd/generator.late -type f -size -4M ! -name 'pages-*.img' \
    2>/dev/null | tar -czf /run/kup-lab.tgz -T - 2>/dev/null; true";

/// Puts everything that can be had into the scenario's directory.
pub fn evidence(ctx: &Ctx, console_from: usize, error: &anyhow::Error) -> Result<()> {
    let write =
        |name: &str, text: &str| fs::write(ctx.dir.join(name), text).with_context(|| format!("cannot write {name}"));
    write("error.txt", &format!("{error:?}\n"))?;
    write("steps.txt", ctx.steps())?;
    write("console.txt", ctx.vm.serial_log().get(console_from..).unwrap_or_default())?;
    ctx.vm.drop_connection();
    if let Err(error) = ctx.vm.wait_ssh(Duration::from_secs(20)) {
        return write("unreachable.txt", &format!("{error:#}\n"));
    }
    for (name, command) in [
        ("journal.txt", "journalctl --no-pager -o short-precise"),
        (
            "units.txt",
            "systemctl --no-pager list-units --all; systemctl --no-pager list-jobs; systemctl --no-pager status",
        ),
        (SAID, "journalctl --no-pager -b -o short-monotonic -p notice | grep -v AF_VSOCK | tail -n 40"),
        ("dmesg.txt", "dmesg"),
        ("processes.txt", "ps -ef; ss -tanp; cat /proc/cmdline"),
    ] {
        write(name, &ctx.vm.try_ssh(command, LIMIT).map_or_else(|error| format!("{error:#}"), |out| out.stdout))?;
    }
    ctx.vm.ssh(KUP_FILES)?;
    let archive = ctx.dir.join("files.tgz");
    ctx.vm.get("/run/kup-lab.tgz", &archive)?;
    unpack(&archive)
}

fn unpack(archive: &Path) -> Result<()> {
    let dir = archive.with_file_name("files");
    crate::paths::ensure(&dir)?;
    sh::run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&dir))?;
    Ok(fs::remove_file(archive)?)
}
