//! kupd on the real bus, in its real sandbox, as `busctl` and other users see it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use crate::guest;
use crate::paths;
use crate::ready::{self, READY, UNITS};
use crate::runner::context::Ctx;
use crate::sh::Output;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "dbus",
    about: "introspection, every method, polkit, named errors, LogControl1, kupd's sandbox, and its end when idle",
    from: READY,
    all_only: false,
    run,
};

const MANAGER: &str = "org.kup1 /org/kup1 org.kup1.Manager";
/// Somebody without any rights.
const NOBODY: &str = "runuser -u nobody -- ";
/// A service of nothing but a process.
const PROBE: &str = "[Service]\nExecStart=/usr/bin/sleep infinity\n";
const LIMIT: Duration = Duration::from_secs(60);

fn run(ctx: &mut Ctx) -> Result<()> {
    ctx.vm.put_bytes(PROBE.as_bytes(), "/etc/systemd/system/probe.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl start probe && systemctl mask --quiet kup-lab-masked.service")?;
    ready::mark(&ctx.vm)?;
    hooks(ctx)?;
    reading(ctx)?;
    marking(ctx)?;
    errors(ctx)?;
    strangers(ctx)?;
    staging(ctx)?;
    log_control(ctx)?;
    sandbox(ctx)?;
    idle(ctx)
}

/// `busctl call` with the log that shows an error's name, prefixed with `who`.
fn call(ctx: &Ctx, who: &str, what: &str) -> Result<Output> {
    ctx.vm.try_ssh(&format!("{who}env SYSTEMD_LOG_LEVEL=debug busctl --system call {what}"), LIMIT)
}

fn expect_error(ctx: &Ctx, who: &str, what: &str, name: &str) -> Result<()> {
    let out = call(ctx, who, what)?;
    let answer = out.stderr.lines().find(|line| line.contains(" type=error ") && line.contains(" reply_cookie=2 "));
    let found = answer.and_then(|line| line.split("error-name=").nth(1)?.split_whitespace().next());
    ensure!(!out.ok() && found == Some(name), "`{who}{what}` gets {found:?}, not {name}: {}{}", out.stdout, out.stderr);
    Ok(())
}

fn property(ctx: &Ctx, place: &str, name: &str) -> Result<String> {
    Ok(ctx.vm.ssh(&format!("busctl get-property {place} {name}"))?.trim().to_owned())
}

/// The interface in the object's live introspection is, byte for byte, what `dbus/` documents.
fn expect_introspection(ctx: &Ctx, path: &str, interface: &str) -> Result<()> {
    let part = |xml: &str| {
        let start = xml.find(&format!("<interface name=\"{interface}\">"))?;
        let end = xml[start..].find("</interface>")?;
        Some(xml[start..start + end].to_owned())
    };
    let file = paths::source().join(format!("dbus/{interface}.xml"));
    let live = ctx.vm.ssh(&format!("busctl introspect --xml-interface org.kup1 {path}"))?;
    let live = part(&live).with_context(|| format!("{path} has no {interface}: {live}"))?;
    let kept = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(part(&kept).as_ref() == Some(&live), "{} is not what kupd says: {live}", file.display());
    Ok(())
}

/// What the package hooks call. It is the running kernel that is staged: asking for it is allowed.
fn hooks(ctx: &mut Ctx) -> Result<()> {
    ctx.step("staging a kernel");
    let kernel = ctx.about().old_kernel.clone();
    for (method, staged) in [("KernelInstalled", &*kernel), ("KernelRemoved", ""), ("KernelInstalled", &*kernel)] {
        ctx.vm.ssh(&format!("busctl call {MANAGER} {method} s {kernel}"))?;
        let answer = property(ctx, MANAGER, "StagedKernel")?;
        ensure!(answer == format!("s \"{staged}\""), "after {method}, StagedKernel is {answer}");
    }
    Ok(())
}

/// Whatever only reads: everybody may.
fn reading(ctx: &mut Ctx) -> Result<()> {
    ctx.step("introspection and reading");
    expect_introspection(ctx, "/org/kup1", "org.kup1.Manager")?;
    let kernel = ctx.about().old_kernel.clone();
    let version = env!("CARGO_PKG_VERSION");
    let expected = [("RunningKernel", &*kernel), ("StagedKernel", &*kernel), ("Mode", "manual"), ("Version", version)];
    for (name, value) in expected {
        let answer = property(ctx, MANAGER, name)?;
        ensure!(answer == format!("s \"{value}\""), "{name} is {answer}, not {value}");
    }
    ensure!(property(ctx, MANAGER, "CurrentUpdate")? == "o \"/\"", "there was an update before the first one");
    for who in ["", NOBODY] {
        let units = ctx.vm.ssh(&format!("{who}busctl call {MANAGER} ListUnits"))?;
        ensure!(units.starts_with(&format!("a(ssass)as {} ", UNITS.len())), "ListUnits answers {units}");
        ensure!(UNITS.iter().all(|unit| units.contains(unit)), "ListUnits lacks a unit: {units}");
        let history = ctx.vm.ssh(&format!("{who}busctl call {MANAGER} History"))?;
        ensure!(history.trim() == "as 0", "History answers {history}");
    }
    let check = ctx.vm.ssh(&format!("busctl call {MANAGER} Check asa{{sv}} 1 probe.service 1 target s {kernel}"))?;
    ensure!(check.contains(&format!("\"{kernel}\" 1 \"probe.service\"")), "Check answers {check}");
    Ok(())
}

/// The verbs that mark, from the command line to the drop-in and back.
fn marking(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kup preserve, list, check, release");
    let names = |ctx: &Ctx| -> Result<Vec<String>> {
        let list: Value = serde_json::from_str(&ctx.vm.ssh("kup list --json")?)?;
        let units = list["units"].as_array().context("kup list shows no units")?;
        Ok(units.iter().filter_map(|unit| unit["unit"].as_str().map(str::to_owned)).collect())
    };
    let before = names(ctx)?;
    ctx.vm.ssh("kup preserve probe --health-check 'systemctl is-active probe'")?;
    let dropin = ctx.vm.ssh("cat /etc/systemd/system/probe.service.d/50-kup.conf")?;
    ensure!(dropin.contains("KUPPreserve=yes") && dropin.contains("KUPHealthCheck="), "the drop-in says {dropin}");
    ensure!(names(ctx)?.contains(&"probe.service".to_owned()), "kup list lacks the unit");
    let check: Value = serde_json::from_str(&ctx.vm.ssh("kup check probe --json")?)?;
    ensure!(check["units"][0] == "probe.service", "kup check answers {check}");
    ensure!(ctx.vm.ssh_ok("systemctl is-active probe"), "marking has stopped the unit");
    ctx.vm.ssh("kup release probe")?;
    ensure!(names(ctx)? == before, "after kup release, {:?} are marked", names(ctx)?);
    ensure!(!ctx.vm.ssh_ok("test -e /etc/systemd/system/probe.service.d"), "kup release left the drop-in");
    ctx.vm.put_bytes(b"[Service]\n\nKUPPreserve=maybe\n", "/etc/systemd/system/probe.service.d/x.conf")?;
    let list = ctx.vm.try_ssh("kup list", LIMIT)?;
    let place = "/etc/systemd/system/probe.service.d/x.conf:3";
    ensure!(list.code == 1 && list.stderr.contains(place), "a bad mark: {} {} {}", list.code, list.stdout, list.stderr);
    ctx.vm.ssh("rm -r /etc/systemd/system/probe.service.d").map(drop)
}

/// Each error that a caller can make has its name.
fn errors(ctx: &mut Ctx) -> Result<()> {
    ctx.step("wrong arguments");
    let wrong = [
        ("Preserve sa{sv} ../probe 0", "InvalidArgument"),
        ("Preserve sa{sv} ssh.socket 0", "InvalidArgument"),
        ("Preserve sa{sv} probe 1 stray s x", "InvalidArgument"),
        ("Preserve sa{sv} probe 1 adjust s private-ipc", "InvalidArgument"),
        ("Preserve sa{sv} probe 1 adjust as 1 private-parts", "InvalidArgument"),
        ("Preserve sa{sv} probe 1 fallback s tape", "InvalidArgument"),
        ("Preserve sa{sv} kup-lab-missing 0", "NoSuchUnit"),
        ("Preserve sa{sv} kup-lab-masked 0", "Masked"),
        ("Release s ../probe", "InvalidArgument"),
        ("Release s probe", "NotMarked"),
        ("Check asa{sv} 1 ../probe 0", "InvalidArgument"),
        ("Check asa{sv} 0 1 target s ../vmlinuz", "InvalidArgument"),
        ("Check asa{sv} 0 1 target b true", "InvalidArgument"),
        ("Update a{sv} 1 target s ../vmlinuz", "InvalidArgument"),
        ("Update a{sv} 0", "NoTarget"),
        ("Update a{sv} 1 target s 1.2.3-none", "NoTarget"),
        ("Update a{sv} 1 allow-restart as 1 probe", "NotMarked"),
        ("Update a{sv} 1 stage-only s yes", "InvalidArgument"),
        ("Update a{sv} 1 stray b true", "InvalidArgument"),
        ("Abort", "InvalidArgument"),
        ("KernelInstalled s ../vmlinuz", "InvalidArgument"),
        ("KernelInstalled s 1.2.3-none", "NoTarget"),
        ("KernelRemoved s ''", "InvalidArgument"),
    ];
    for (what, name) in wrong {
        expect_error(ctx, "", &format!("{MANAGER} {what}"), &format!("org.kup1.Error.{name}"))?;
    }
    ensure!(property(ctx, MANAGER, "CurrentUpdate")? == "o \"/\"", "a refused call has begun an update");
    Ok(())
}

/// Whatever changes something: not for somebody whom polkit does not know.
fn strangers(ctx: &mut Ctx) -> Result<()> {
    ctx.step("an unprivileged caller is refused");
    let kernel = ctx.about().old_kernel.clone();
    let forbidden = [
        "Preserve sa{sv} probe 0",
        "Release s redis-server",
        "Check asa{sv} 0 0",
        "Update a{sv} 0",
        "Update a{sv} 1 stage-only b true",
        "Abort",
        &format!("KernelInstalled s {kernel}"),
        &format!("KernelRemoved s {kernel}"),
    ];
    for what in forbidden {
        expect_error(ctx, NOBODY, &format!("{MANAGER} {what}"), "org.kup1.Error.NotAuthorized")?;
    }
    let units = ctx.vm.ssh("kup list --json")?;
    ensure!(units.contains("redis-server.service") && !units.contains("probe.service"), "marks have changed: {units}");
    ensure!(property(ctx, MANAGER, "StagedKernel")? == format!("s \"{kernel}\""), "the staged kernel has changed");
    let kup = ctx.vm.try_ssh(&format!("{NOBODY}kup release redis-server"), LIMIT)?;
    ensure!(!kup.ok() && kup.stderr.contains("root"), "kup as nobody: {} {}{}", kup.code, kup.stdout, kup.stderr);
    ctx.step("a polkit rule lets one user do one thing");
    let rule = "polkit.addRule(function(action, subject) {\n  if (action.id == 'org.kup1.check' && \
                subject.user == 'nobody') return polkit.Result.YES;\n});\n";
    ctx.vm.put_bytes(rule.as_bytes(), "/etc/polkit-1/rules.d/50-kup-lab.rules")?;
    guest::until(LIMIT, "polkit takes the rule", || {
        ctx.vm.ssh_ok(&format!("{NOBODY}busctl call {MANAGER} Check asa{{sv}} 1 probe 0"))
    })?;
    expect_error(ctx, NOBODY, &format!("{MANAGER} Release s redis-server"), "org.kup1.Error.NotAuthorized")
}

/// An update's object, as far as it goes without a switch.
fn staging(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kup update --stage-only, and giving it up");
    let kernel = ctx.about().old_kernel.clone();
    ctx.vm.ssh(&format!("kup update --yes --stage-only --target {kernel}"))?;
    let path = property(ctx, MANAGER, "CurrentUpdate")?;
    let path = path.trim_start_matches("o ").trim_matches('"').to_owned();
    expect_introspection(ctx, &path, "org.kup1.Update")?;
    let update = format!("org.kup1 {path} org.kup1.Update");
    let expected = [
        ("State", "s \"armed\"".to_owned()),
        ("Source", format!("s \"{kernel}\"")),
        ("Target", format!("s \"{kernel}\"")),
        ("StageOnly", "b true".into()),
        ("Reason", "s \"\"".into()),
        ("Outdated", "a(sas) 0".into()),
    ];
    for (name, value) in expected {
        let answer = property(ctx, &update, name)?;
        ensure!(answer == value, "{name} is {answer}, not {value}");
    }
    let units = property(ctx, &update, "Units")?;
    ensure!(UNITS.iter().all(|unit| units.contains(&format!("\"{unit}\" \"running\" \"\""))), "Units is {units}");
    ensure!(
        path.ends_with(property(ctx, &update, "Id")?.trim_start_matches("s ").trim_matches('"')),
        "its Id is no part of {path}"
    );
    expect_error(ctx, "", &format!("{MANAGER} Update a{{sv}} 1 target s {kernel}"), "org.kup1.Error.Busy")?;
    ctx.vm.ssh(&format!("busctl call {MANAGER} Abort"))?;
    ensure!(property(ctx, &update, "State")? == "s \"aborted\"", "Abort has not aborted");
    let history = ctx.vm.ssh(&format!("busctl call {MANAGER} History"))?;
    ensure!(history.starts_with("as 1 ") && history.contains("aborted"), "History answers {history}");
    let status = ctx.vm.try_ssh("kup status", LIMIT)?;
    ensure!(status.code == 6, "kup status of an aborted update ends with {}", status.code);
    Ok(())
}

fn log_control(ctx: &mut Ctx) -> Result<()> {
    ctx.step("org.freedesktop.LogControl1");
    let place = "org.kup1 /org/freedesktop/LogControl1 org.freedesktop.LogControl1";
    ensure!(property(ctx, place, "LogTarget")? == "s \"journal\"", "kupd does not log to the journal");
    ensure!(property(ctx, place, "SyslogIdentifier")? == "s \"kupd\"", "kupd's messages have another identifier");
    ctx.vm.ssh("systemctl service-log-level kupd.service debug")?;
    let level = ctx.vm.ssh("systemctl service-log-level kupd.service")?;
    ensure!(level.trim() == "debug", "the log level is {level}");
    let set = format!("busctl set-property {place} LogLevel s");
    ensure!(!ctx.vm.ssh_ok(&format!("{set} loud")), "there is a log level 'loud'");
    ensure!(!ctx.vm.ssh_ok(&format!("{NOBODY}{set} info")), "nobody may set the log level");
    ctx.vm.ssh("systemctl service-log-level kupd.service info").map(drop)
}

/// Neither kupd nor what it starts may hold more rights than it needs.
fn sandbox(ctx: &mut Ctx) -> Result<()> {
    ctx.step("systemd-analyze security");
    let text = ctx.vm.ssh("systemd-analyze security --no-pager kupd.service")?;
    let exposure = text.split("exposure level for kupd.service: ").nth(1).and_then(|t| t.split_whitespace().next());
    let exposure: f64 = exposure.context("systemd-analyze shows no exposure level")?.parse()?;
    ctx.figure("exposure of kupd, of 10", exposure, "points");
    ensure!(exposure <= 2.0, "kupd's exposure is {exposure}");
    Ok(())
}

/// Between updates, nothing of kup runs.
fn idle(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kupd leaves when nobody asks");
    guest::until(LIMIT, "kupd has gone", || {
        ctx.vm.ssh("systemctl show --value -p ActiveState kupd.service").is_ok_and(|state| state.trim() == "inactive")
    })?;
    expect_no_leftovers(ctx)?;
    let active = ctx.vm.ssh(
        "systemctl list-units --plain --no-legend --state=active,activating 'kup*' | grep -v kup-testserver || true",
    )?;
    ensure!(active.trim().is_empty(), "these are active: {active}");
    let result = ctx.vm.ssh("systemctl show --value -p Result kupd.service")?;
    ensure!(result.trim() == "success", "kupd ended with {result}");
    ctx.vm.ssh("kup list").map(drop).context("kupd does not come back")
}
