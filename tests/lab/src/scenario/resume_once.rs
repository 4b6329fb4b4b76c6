//! The rule above all others: an image is resumed at most once, and never after its task has run on. Databases under write
//! load notice when it is not kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Scenario, turncoat};
use crate::client::{Pulse, postgres, redis};
use crate::guest;
use crate::ready::{STAGED, units_but};
use crate::runner::context::Ctx;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "resume-once",
    about: "power cut, panic and hang after the resume, power cut after an abort: cold start, no acknowledged write missing",
    from: STAGED,
    all_only: true,
    run,
};

/// Name of the saved state in which the databases are set up.
const SET_UP: &str = "resume-once";
const POSTGRES: &str = "postgresql@17-main.service";
const REDIS: &str = "redis-server.service";
/// Keeps the update from its end, so that there is time to have trouble in.
const WAIT: &str = "#!/bin/sh\nexec sleep 1000\n";
const SETTINGS: &str = "HealthTimeoutSec = 1500\nBootTimeoutSec = 1500\nDeadmanSec = 240\n";
/// Leaves nothing of the processors to anybody else, the kernel's own threads included.
const HOG: &str = "sysctl -qw kernel.sched_rt_runtime_us=-1; for i in 1 2 3 4; do \
    setsid chrt -f 99 sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & done";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    PowerCut,
    Panic,
    Hang,
    Abort,
}

fn run(ctx: &mut Ctx) -> Result<()> {
    set_up(ctx)?;
    ctx.vm.ssh("sync; journalctl --sync")?;
    ctx.vm.savevm(SET_UP)?;
    for (n, trouble) in [Trouble::PowerCut, Trouble::Panic, Trouble::Hang, Trouble::Abort].into_iter().enumerate() {
        if n > 0 {
            ctx.vm.loadvm(SET_UP)?;
        }
        try_out(ctx, trouble).with_context(|| format!("{trouble:?}"))?;
    }
    ctx.vm.delvm(SET_UP)
}

/// PostgreSQL as Debian ships it, redis in append-only mode; both write before they answer.
fn set_up(ctx: &mut Ctx) -> Result<()> {
    ctx.step("installing PostgreSQL");
    guest::install_more(&ctx.vm, "postgresql")?;
    ctx.vm.ssh(
        "cd /etc/postgresql/17/main && echo \"listen_addresses = '*'\" >>postgresql.conf && \
         echo 'host all all 10.77.0.0/24 trust' >>pg_hba.conf && \
         sed -i -e 's/^appendonly .*/appendonly yes/' -e 's/^appendfsync .*/appendfsync always/' /etc/redis/redis.conf",
    )?;
    ctx.vm.put_bytes(WAIT.as_bytes(), "/usr/local/bin/wait")?;
    ctx.vm.put_bytes(SETTINGS.as_bytes(), "/etc/kup/kup.toml")?;
    ctx.vm.ssh(&format!(
        "chmod 755 /usr/local/bin/wait; systemctl daemon-reload; kup release {} && \
         kup preserve {REDIS} --health-check /usr/local/bin/wait && kup preserve {POSTGRES} --adjust private-ipc && \
         systemctl restart {REDIS} {POSTGRES}",
        units_but(&[REDIS])
    ))?;
    ctx.eventually(Duration::from_secs(60), |ctx| ctx.vm.peer().enter(postgres::prepare)?)
}

/// Writers at work, and what was acknowledged to each.
struct Writers {
    _pulses: [Pulse; 2],
    postgres: Arc<AtomicU64>,
    redis: Arc<AtomicU64>,
}

impl Writers {
    fn start(ctx: &Ctx) -> Result<Self> {
        let (postgres, redis) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (p, r, peer) = (Arc::clone(&postgres), Arc::clone(&redis), ctx.vm.peer());
        let pulses = [
            Pulse::start("PostgreSQL", peer, move || postgres::Writer::connect(p))?,
            Pulse::start("redis", peer, move || redis::Writer::connect(r))?,
        ];
        Ok(Self { _pulses: pulses, postgres, redis })
    }

    fn acknowledged(&self) -> (u64, u64) {
        (self.postgres.load(Ordering::SeqCst), self.redis.load(Ordering::SeqCst))
    }

    /// Waits until both have written more than they have now.
    fn wait_progress(&self, limit: Duration) -> Result<()> {
        let (postgres, redis) = self.acknowledged();
        guest::until(limit, "both databases take writes", || {
            let now = self.acknowledged();
            now.0 > postgres + 20 && now.1 > redis + 20
        })
    }
}

fn try_out(ctx: &mut Ctx, trouble: Trouble) -> Result<()> {
    ctx.step(&format!("{trouble:?}: writers, kup update"));
    let writers = Writers::start(ctx)?;
    writers.wait_progress(Duration::from_secs(60))?;
    let run_id = ctx.vm.peer().enter(redis::run_id)??;
    let boot = if trouble == Trouble::Abort { abort(ctx)? } else { resume(ctx)? };
    writers.wait_progress(Duration::from_secs(120))?;
    ctx.step("both have taken writes that no image knows of; now the trouble");
    match trouble {
        Trouble::PowerCut | Trouble::Abort => ctx.vm.power_cut()?,
        Trouble::Panic => drop(ctx.vm.try_ssh("echo c >/proc/sysrq-trigger", Duration::from_secs(5))),
        Trouble::Hang => drop(ctx.vm.try_ssh(HOG, Duration::from_secs(5))),
    }
    ctx.vm.wait_new_boot(&boot, BOOT_LIMIT)?;
    // An update that was given up has put the boot loader back, which boots the newest kernel.
    let about = ctx.about();
    let kernel = if trouble == Trouble::Abort { &about.new_kernel } else { &about.old_kernel }.clone();
    ctx.expect_kernel(&kernel)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    let (postgres, redis) = writers.acknowledged();
    ctx.step(&format!("{postgres} rows and {redis} keys were acknowledged: are they there?"));
    ctx.eventually(Duration::from_secs(60), |ctx| ctx.vm.peer().enter(redis::run_id)?.map(drop))?;
    ctx.vm.peer().enter(|| postgres::verify(postgres).and_then(|()| redis::verify_written(redis)))??;
    ensure!(ctx.vm.peer().enter(redis::run_id)?? != run_id, "redis was resumed from an old image");
    expect_record(ctx, trouble)
}

/// An update whose units run on the new kernel and whose end does not come; gives that boot.
fn resume(ctx: &mut Ctx) -> Result<String> {
    let boot = ctx.vm.boot_id()?;
    // The shutdown may cut the connection before kup has ended.
    if let Ok(out) = ctx.vm.try_ssh("kup update --yes", Duration::from_secs(300)) {
        ensure!(![1, 3, 6].contains(&out.code), "kup update ({}): {}{}", out.code, out.stdout, out.stderr);
    }
    ctx.vm.wait_new_boot(&boot, BOOT_LIMIT)?;
    ctx.eventually(BOOT_LIMIT, |ctx| {
        let state = guest::state(&ctx.vm)?;
        ensure!(state == "assessing", "the update is {state}");
        Ok(())
    })?;
    let new = ctx.about().new_kernel.clone();
    ctx.expect_kernel(&new)?;
    ctx.vm.boot_id()
}

/// An update that is aborted when the images of the databases are complete already; gives the boot.
fn abort(ctx: &mut Ctx) -> Result<String> {
    turncoat::start(ctx)?;
    ctx.vm.ssh("kup update --yes --stage-only")?;
    turncoat::turn(ctx)?;
    ctx.vm.ssh("systemctl kexec")?;
    let record = guest::wait_ended(ctx, Duration::from_secs(180))?;
    ensure!(record["state"] == "aborted", "the update is {}", record["state"]);
    ctx.vm.boot_id()
}

fn expect_record(ctx: &mut Ctx, trouble: Trouble) -> Result<()> {
    let record = guest::wait_ended(ctx, Duration::from_secs(120))?;
    let state = |unit: &str| record["units"][unit]["state"].clone();
    if trouble == Trouble::Abort {
        ensure!(record["state"] == "aborted" && state(REDIS) == "void", "{} {}", record["state"], state(REDIS));
        return Ok(());
    }
    ensure!(record["state"] == "failed", "the update is {}", record["state"]);
    for unit in [REDIS, POSTGRES] {
        ensure!(state(unit)["cold"]["reason"].is_string(), "{unit} is {}", state(unit));
    }
    let status = ctx.vm.try_ssh("kup status", Duration::from_secs(60))?;
    ensure!(status.code == 7, "kup status ends with {}", status.code);
    Ok(())
}
