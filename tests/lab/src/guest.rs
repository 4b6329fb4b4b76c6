//! kup inside the guest, as an administrator uses it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::runner::context::Ctx;
use crate::vm::{BOOT_LIMIT, SLOWEST, Vm};

/// How long an update may take until its new boot is there.
const UPDATE_LIMIT: Duration = Duration::from_secs(600);

/// A service as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// MainPID=.
    pub main_pid: u32,
    /// NRestarts=.
    pub restarts: u32,
    /// ActiveState=.
    pub active: String,
}

/// What systemd says of `unit`.
pub fn service(vm: &Vm, unit: &str) -> Result<Service> {
    let property = |name: &str| vm.ssh(&format!("systemctl show --value -p {name} {unit}"));
    Ok(Service {
        main_pid: property("MainPID")?.trim().parse()?,
        restarts: property("NRestarts")?.trim().parse()?,
        active: property("ActiveState")?.trim().to_owned(),
    })
}

/// Installs a package that the image brings along for scenarios.
pub fn install_more(vm: &Vm, package: &str) -> Result<()> {
    install_from(vm, "more", package)
}

/// The same of packages in another of the image's repositories.
pub fn install_from(vm: &Vm, repository: &str, packages: &str) -> Result<()> {
    let source = format!("deb [trusted=yes] file:/srv/kup-lab/repo-{repository} ./\n");
    vm.put_bytes(source.as_bytes(), &format!("/etc/apt/sources.list.d/{repository}.list"))?;
    let install = format!("apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y {packages}");
    let out = vm.try_ssh(&install, Duration::from_secs(900))?;
    crate::sh::check(&install, out).map(drop)
}

/// The record of the newest update.
pub fn record(vm: &Vm) -> Result<Value> {
    Ok(serde_json::from_str(&vm.ssh("cat /etc/kup/record.json")?)?)
}

/// State word of the newest update.
pub fn state(vm: &Vm) -> Result<String> {
    Ok(record(vm)?["state"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the newest update has ended; gives its record.
pub fn wait_ended(ctx: &mut Ctx, limit: Duration) -> Result<Value> {
    ctx.eventually(limit, |ctx| {
        let record = record(&ctx.vm)?;
        let state = record["state"].as_str().unwrap_or_default();
        ensure!(["done", "aborted", "refused", "fell-back", "failed"].contains(&state), "the update is still {state}");
        Ok(record)
    })
}

/// `kup update` with these options, until it has ended in the new boot; gives its record.
pub fn update(ctx: &mut Ctx, options: &str) -> Result<Value> {
    let before = ctx.vm.boot_id()?;
    ctx.step(&format!("kup update {options}"));
    // The shutdown may cut the connection before kup has ended.
    let out = ctx.vm.try_ssh(&format!("kup update --yes {options}"), UPDATE_LIMIT);
    if let Ok(out) = &out
        && !out.ok()
        && ctx.vm.boot_id().is_ok_and(|now| now == before)
        && ["refused", "aborted"].contains(&state(&ctx.vm)?.as_str())
    {
        bail!("kup update: {} {}", out.stderr.trim(), out.text());
    }
    switched(ctx, &before)
}

/// An ordinary reboot to `kernel`, through firmware and boot loader, without anything of an update on its command line.
pub fn reboot(ctx: &mut Ctx, kernel: &str) -> Result<()> {
    ctx.step("an ordinary reboot");
    let before = ctx.vm.boot_id()?;
    ctx.vm.ssh("systemctl reboot --no-block")?;
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    ctx.expect_kernel(kernel)?;
    let cmdline = ctx.vm.ssh("cat /proc/cmdline")?;
    ensure!(!cmdline.contains("kup."), "the reboot was a kexec: {cmdline}");
    Ok(())
}

/// Waits for the boot after `before`, and until the update has ended in it; gives its record.
pub fn switched(ctx: &mut Ctx, before: &str) -> Result<Value> {
    ctx.vm.wait_new_boot(before, UPDATE_LIMIT).context("after the kexec")?;
    ctx.step("the new kernel answers");
    wait_ended(ctx, BOOT_LIMIT)
}

/// Fails unless the update was blessed and every one of `units` was resumed.
pub fn expect_done(record: &Value, units: &[&str]) -> Result<()> {
    ensure!(record["state"] == "done", "the update is {}: {}", record["state"], record["reason"]);
    for unit in units {
        let state = &record["units"][unit]["state"];
        ensure!(state == "resumed", "{unit} is {state}");
    }
    Ok(())
}

/// Phases of an update as figures, in seconds.
pub fn phases(record: &Value) -> Vec<(String, f64)> {
    let took = |(name, start, end): (&str, u64, u64)| Some((name.to_owned(), end.checked_sub(start)? as f64 / 1e6));
    phases_with_ends(record).filter_map(took).collect()
}

/// Name, start and end of what the record has of phases, in microseconds; one that has not ended has an end of 0.
fn phases_with_ends(record: &Value) -> impl Iterator<Item = (&str, u64, u64)> {
    let phases = record["phases"].as_array().into_iter().flatten();
    phases.filter_map(|p| Some((p["name"].as_str()?, p["start"].as_u64()?, p["end"].as_u64()?)))
}

/// kup's own gap in seconds: from the freeze until the last connection was released. By the guest's clock, which the new
/// kernel may have to the second only.
pub fn gap(record: &Value) -> Result<f64> {
    let of = |name: &'static str| phases_with_ends(record).filter(move |phase| phase.0 == name);
    let freeze = of("freeze and dump").map(|phase| phase.1).min().context("the record does not say when it froze")?;
    let unlock = of("unlock").map(|phase| phase.2).max().context("the record does not say when it unlocked")?;
    let gap = unlock.checked_sub(freeze).context("the record has connections released before the freeze")?;
    Ok(gap as f64 / 1e6)
}

/// Seconds that the phases of these names took together; one that is missing is an error.
pub fn took(record: &Value, names: &[&str]) -> Result<f64> {
    let phases = phases(record);
    let took = |name: &&str| {
        let found = phases.iter().find(|(phase, _)| phase == name);
        found.map(|(_, took)| took).with_context(|| format!("the record has no phase '{name}'"))
    };
    names.iter().map(took).sum()
}

/// Loads the kernel that runs once more, for a kexec without kup.
pub const LOAD_AGAIN: &str = "kexec -s -l /boot/vmlinuz-$(uname -r) --initrd=/boot/initrd.img-$(uname -r) \
                             --command-line=\"$(cat /proc/cmdline)\"";

/// Gives memcached so much memory (MiB) and starts it anew, empty.
pub fn restart_memcached(vm: &Vm, memory: u64) -> Result<()> {
    vm.ssh(&format!("sed -i 's/^-m .*/-m {memory}/' /etc/memcached.conf && systemctl restart memcached.service"))?;
    listens(vm)
}

/// Has kup use these settings, on top of those in kup.toml.
pub fn settings(vm: &Vm, name: &str, text: &str) -> Result<()> {
    vm.ssh("mkdir -p /etc/kup/kup.toml.d")?;
    vm.put_bytes(text.as_bytes(), &format!("/etc/kup/kup.toml.d/{name}.toml"))
}

/// Memory that is available, MiB.
pub fn available(vm: &Vm) -> Result<u64> {
    let available = vm.ssh("awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo")?;
    available.trim().parse().context("/proc/meminfo does not tell how much memory is available")
}

/// Takes memory until so many MiB are left. The unit `lab-hog` has it, and nothing is swapped out for it.
pub fn hog(vm: &Vm, left: u64) -> Result<()> {
    vm.ssh("swapoff -a; rm -f /run/lab-hog")?;
    let take = available(vm)?.saturating_sub(left);
    let code = format!("x = b\"x\" * ({take} << 20); open(\"/run/lab-hog\", \"w\"); import signal; signal.pause()");
    let has_it = "until test -e /run/lab-hog; do systemctl is-active -q lab-hog || exit 1; sleep 0.5; done";
    let taken = vm.ssh(&format!("systemd-run -q --unit lab-hog python3 -c '{code}' && {has_it}"));
    taken.map(drop).with_context(|| format!("{take} MiB cannot be taken"))
}

/// Waits until memcached listens.
pub fn listens(vm: &Vm) -> Result<()> {
    vm.ssh("until [ -n \"$(ss -Hltn sport = :11211)\" ]; do sleep 0.1; done").map(drop)
}

/// Of the machine's two kernels the one that does not run.
pub fn other_kernel(ctx: &Ctx) -> Result<String> {
    let (running, about) = (ctx.vm.uname()?, ctx.about());
    Ok(if running == about.new_kernel { about.old_kernel.clone() } else { about.new_kernel.clone() })
}

/// Waits until `holds`, for at most `limit`.
pub fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let limit = limit * SLOWEST;
    let deadline = Instant::now() + limit;
    while !holds() {
        ensure!(Instant::now() < deadline, "{what}: not within {limit:.0?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_from_the_freeze_to_the_last_release() {
        let phase = |name: &str, start: u64, end: u64| serde_json::json!({ "name": name, "start": start, "end": end });
        let mut phases = vec![phase("check", 1, 2), phase("freeze and dump", 2_000_000, 3_000_000)];
        let record = |phases: &[Value]| serde_json::json!({ "phases": phases });
        assert!(gap(&record(&phases)).unwrap_err().to_string().contains("unlocked"));
        phases.extend([phase("unlock", 9_000_000, 9_250_000), phase("unlock", 9_300_000, 9_500_000)]);
        assert_eq!(gap(&record(&phases)).unwrap(), 7.5);
        assert_eq!(self::phases(&record(&phases))[1], ("freeze and dump".to_owned(), 1.0));
    }
}
