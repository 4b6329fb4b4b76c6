//! CRIU itself: kup's own tests that need a real one, with the stable release's and with the next one's, and an update with
//! that.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::update::update_filled;
use crate::client::memcached::Keys;
use crate::deb;
use crate::guest;
use crate::ready::STAGED;
use crate::runner::context::Ctx;
use crate::sh;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "criu",
    about: "kup's tests with a real CRIU pass with the stable release's and with the next one's; so does an update with that",
    from: STAGED,
    all_only: true,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
const LIMIT: Duration = Duration::from_secs(900);
/// Elsewhere they are ignored, as they need root, CRIU and Python.
const TESTS: &str = "--ignored --skip speed --nocapture --test-threads 1";

fn run(ctx: &mut Ctx) -> Result<()> {
    let programs = deb::compile_tests(&["--lib", "--test", "page_server"])?;
    ensure!(programs.len() == 2, "there are {} programs with tests instead of two", programs.len());
    for (n, program) in programs.iter().enumerate() {
        ctx.vm.put(program, &format!("/root/tests-{n}"))?;
    }
    guest::install_more(&ctx.vm, "python3")?;
    let stable = version(ctx)?;
    test(ctx, programs.len(), &stable)?;

    ctx.step("the next release's CRIU is installed");
    guest::install_from(&ctx.vm, "next", "criu")?;
    let next = version(ctx)?;
    ensure!(next != stable, "CRIU is {stable} as before");
    test(ctx, programs.len(), &next)?;

    ctx.step(&format!("an update with CRIU {next}"));
    update_filled(ctx, KEYS)
}

fn version(ctx: &Ctx) -> Result<String> {
    let said = ctx.vm.ssh("criu --version")?;
    let version = said.lines().find_map(|line| line.strip_prefix("Version: ")).context("CRIU says no version")?;
    Ok(version.to_owned())
}

/// Each program runs some tests, and all of them pass.
fn test(ctx: &mut Ctx, programs: usize, version: &str) -> Result<()> {
    for n in 0..programs {
        ctx.step(&format!("tests with CRIU {version}: program {} of {programs}", n + 1));
        let command = format!("cd /root && ./tests-{n} {TESTS}");
        let out = ctx.vm.try_ssh(&command, LIMIT)?;
        let said = sh::check(&command, out)?;
        let result = said.lines().find(|line| line.starts_with("test result: ok.")).context("no tests were run")?;
        ensure!(!result.contains(" 0 passed"), "no test was run: {result}");
    }
    Ok(())
}
