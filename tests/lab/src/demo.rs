//! `cargo lab demo`: the main job, start to finish, told step by step.

use anyhow::{Context, Result};

use crate::ready::READY;
use crate::runner::context::Ctx;
use crate::runner::pool::{self, Options};
use crate::runner::report::Report;
use crate::scenario::Scenario;

const DEMO: &[Scenario] = &[Scenario {
    name: "demo",
    about: "an update that running services live through",
    from: READY,
    all_only: false,
    run: show,
}];

/// Runs it; gives the exit code.
pub fn run() -> Result<u8> {
    let report = Report::default();
    pool::run(&DEMO.iter().collect::<Vec<_>>(), Options { aloud: true, ..Options::default() }, &report)?;
    Ok(report.finish())
}

fn show(ctx: &mut Ctx) -> Result<()> {
    ctx.step("preserving memcached, redis and nginx");
    ctx.vm.ssh("kup preserve memcached.service redis-server.service nginx.service").context("is kup installed?")?;
    ctx.install_new_kernel()
}
