//! `cargo lab demo`: the main job, start to finish, told step by step.

use anyhow::Result;

use crate::client::memcached::Keys;
use crate::guest;
use crate::ready::{READY, UNITS};
use crate::runner::context::Ctx;
use crate::runner::pool::{self, Options};
use crate::runner::report::Report;
use crate::scenario::Scenario;
use crate::scenario::update::{Clients, expect_same, observe, start_services, verify};

const DEMO: &[Scenario] = &[Scenario {
    name: "demo",
    about: "an update that running services live through",
    from: READY,
    all_only: false,
    run: show,
}];

/// 64 MiB each in memcached and redis.
const KEYS: Keys = Keys { count: 8 << 10, size: 8 << 10 };

/// Runs it; gives the exit code.
pub fn run() -> Result<u8> {
    let report = Report::default();
    pool::run(&DEMO.iter().collect::<Vec<_>>(), Options { aloud: true, ..Options::default() }, &report)?;
    Ok(report.finish())
}

fn show(ctx: &mut Ctx) -> Result<()> {
    let services = start_services(ctx, KEYS)?;
    ctx.install_new_kernel()?;
    println!("{}", ctx.vm.ssh("kup check || true")?);
    let before = observe(ctx)?;
    let clients = Clients::start(ctx, KEYS)?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    let seen = clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)?;
    let (old, new) = (&ctx.about().old_kernel, ctx.vm.uname()?);
    println!("\n{old} -> {new}\n");
    println!("{:<24} {:>8} {:>9}  what stayed", "service", "PID", "restarts");
    let stayed = [
        "every key, the connection",
        "every key, its run_id, the connection",
        "a download under way, to the right checksum",
        "everything that it checks of itself, the connection",
    ];
    for ((unit, service), stayed) in UNITS.iter().zip(&services).zip(stayed) {
        println!("{unit:<24} {:>8} {:>9}  {stayed}", service.main_pid, service.restarts);
    }
    println!("\nThe longest that a client waited for an answer: {seen:.1} s. Where it went:");
    for (name, took) in guest::phases(&record) {
        println!("  {name:<20} {took:>7.1} s");
    }
    println!("\n{}", ctx.vm.ssh("kup status; kup history")?);
    Ok(())
}
