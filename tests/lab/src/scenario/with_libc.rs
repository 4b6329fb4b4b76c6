//! The kernel's apt run also replaces libraries that the services map: they live on with the files that they had.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use super::update::{Clients, expect_same, observe, start_services, verify};
use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{READY, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update-with-libc",
    about: "libc6 and other libraries are replaced with the kernel: processes live on with the deleted files, twice",
    from: READY,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
const REDIS: &str = "redis-server.service";
/// Libraries of redis that the repository replaces.
const REPLACED: [&str; 2] = ["libc.so.6", "liblzf.so.1"];

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = start_services(ctx, KEYS)?;
    install(ctx)?;
    let deleted = deleted_libraries(ctx)?;
    for library in REPLACED {
        ensure!(
            deleted.iter().any(|path| path.contains(&format!("/{library}"))),
            "redis does not map a deleted {library}: {deleted:?}"
        );
    }
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    // The second time, what is mapped is a deleted file of kup's own.
    for target in [&new, &old] {
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &UNITS)?;
        ctx.expect_kernel(target)?;
        expect_old_libraries(ctx, &deleted)?;
        expect_outdated(ctx, &deleted)?;
    }
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)?;
    ctx.step("a restart takes the new libraries");
    ctx.vm.ssh(&format!("systemctl restart {REDIS}"))?;
    let left = deleted_libraries(ctx)?;
    ensure!(left.is_empty(), "after its restart, redis still maps {left:?}");
    Ok(())
}

/// One apt run for the kernel and every library of the second repository.
fn install(ctx: &mut Ctx) -> Result<()> {
    ctx.step("one apt run installs the kernel and replaces libraries");
    let new = &ctx.about().new_kernel;
    let libraries = "$(sed -n 's/^Package: //p' /srv/kup-lab/repo-libs/Packages)";
    guest::install_from(&ctx.vm, "libs", &format!("linux-image-{new} {libraries}"))
}

/// Code that redis maps and that has no name any more.
fn deleted_libraries(ctx: &Ctx) -> Result<BTreeSet<String>> {
    let maps = maps(ctx)?;
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    let paths = code.filter_map(|line| line.strip_suffix(" (deleted)")?.split_whitespace().last());
    Ok(paths.map(str::to_owned).collect())
}

fn maps(ctx: &Ctx) -> Result<String> {
    let pid = guest::service(&ctx.vm, REDIS)?.main_pid;
    ctx.vm.ssh(&format!("cat /proc/{pid}/maps"))
}

/// redis maps as many deleted libraries as before, and none that took their place.
fn expect_old_libraries(ctx: &Ctx, deleted: &BTreeSet<String>) -> Result<()> {
    let (now, maps) = (deleted_libraries(ctx)?, maps(ctx)?);
    ensure!(now.len() == deleted.len(), "redis mapped the deleted {deleted:?} and maps {now:?}");
    for path in deleted {
        let file = path.rsplit('/').next().unwrap_or_default();
        ensure!(now.iter().any(|now| now.ends_with(file)), "redis maps no deleted {file}: {now:?}");
        ensure!(!maps.lines().any(|line| line.ends_with(path.as_str())), "redis maps the new {path}");
    }
    Ok(())
}

/// `kup status` names the files by the names that they had.
fn expect_outdated(ctx: &mut Ctx, deleted: &BTreeSet<String>) -> Result<()> {
    let status: Value = serde_json::from_str(&ctx.vm.ssh("kup status --json")?)?;
    let units = status["update"]["units"].as_array().context("kup status shows no units")?;
    let redis = units.iter().find(|unit| unit["unit"] == REDIS).context("kup status does not show redis")?;
    let outdated: BTreeSet<String> = serde_json::from_value(redis["outdated"].clone())?;
    ensure!(outdated == *deleted, "kup status names {outdated:?} instead of {deleted:?}");
    Ok(())
}
