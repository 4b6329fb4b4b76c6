//! CRIU without kup, as an administrator would use it: memcached outside systemd's sandbox, and CRIU's own commands. Times
//! are taken inside the guest, from the command's start until what it is for is there: images on the disk, or tasks that run.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::memcached::{self, Keys};
use crate::guest;
use crate::runner::context::Ctx;
use crate::vm::Vm;

/// Where its images go.
const IMAGES: &str = "/var/lib/by-hand";
/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(900);

/// How the memory comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restore {
    /// Before the tasks run.
    Eager,
    /// When it is touched, by CRIU's own daemon.
    OnDemand,
}

/// A memcached that nobody but the bench looks after, in the place of the service.
#[derive(Debug)]
pub struct ByHand {
    pid: u32,
    keys: Keys,
    /// Images of the rounds so far; the last dump's among them.
    rounds: usize,
}

impl ByHand {
    /// Starts it, and fills it.
    pub fn start(ctx: &mut Ctx, keys: Keys) -> Result<Self> {
        ctx.step("memcached by hand");
        let memory = keys.allowance();
        let vm = &ctx.vm;
        vm.ssh("systemctl stop memcached.service")?;
        vm.ssh(&format!("setsid -f memcached -u memcache -l 0.0.0.0 -m {memory} </dev/null >/dev/null 2>&1"))?;
        guest::listens(vm)?;
        let pid = vm.ssh("pgrep -x memcached")?.trim().parse().context("memcached does not run alone")?;
        vm.peer().enter(|| memcached::fill(keys))??;
        Ok(Self { pid, keys, rounds: 0 })
    }

    /// Copies its memory while it runs; what is in the images of the round before is left out.
    pub fn pre_dump(&mut self, ctx: &mut Ctx) -> Result<f64> {
        self.round(ctx, "pre-dump", "--track-mem")
    }

    /// Dumps it, which ends it; what is in the images of the round before is left out.
    pub fn dump(&mut self, ctx: &mut Ctx) -> Result<f64> {
        let track = if self.rounds > 0 { "--track-mem" } else { "" };
        self.round(ctx, "dump", &format!("--manage-cgroups=ignore {track}"))
    }

    fn round(&mut self, ctx: &mut Ctx, what: &str, options: &str) -> Result<f64> {
        let (pid, n) = (self.pid, self.rounds);
        let dir = format!("{IMAGES}/{n}");
        let parent = n.checked_sub(1).map(|n| format!("--prev-images-dir ../{n}")).unwrap_or_default();
        ctx.vm.ssh(&format!("mkdir -p {dir} && sync"))?;
        let criu = format!("criu {what} -t {pid} -D {dir} -o criu.log {parent} {options} && sync -f {dir}");
        self.rounds += 1;
        timed(ctx, &criu, &dir)
    }

    /// Writes this share of its memory, in percent.
    pub fn write(&self, ctx: &mut Ctx, share: u64) -> Result<()> {
        ctx.step(&format!("writing {share} %"));
        ctx.vm.peer().enter(|| memcached::fill(self.keys.percent(share)))?
    }

    /// Brings it back from the last images, read from the disk and not from the page cache. Verified: every key is there.
    pub fn restore(&self, ctx: &mut Ctx, how: Restore) -> Result<f64> {
        self.kill(&ctx.vm)?;
        let dir = format!("{IMAGES}/{}", self.rounds.saturating_sub(1));
        let mut options = "--manage-cgroups=ignore";
        if how == Restore::OnDemand {
            let daemon = format!("rm -f {dir}/lazy-pages.socket; setsid -f criu lazy-pages -D {dir} -o lazy.log");
            let listens = format!("until [ -S {dir}/lazy-pages.socket ]; do sleep 0.05; done");
            ctx.vm.ssh(&format!("{daemon} </dev/null >/dev/null 2>&1; {listens}"))?;
            options = "--manage-cgroups=ignore --lazy-pages";
        }
        ctx.vm.ssh("sync; echo 3 >/proc/sys/vm/drop_caches")?;
        let took = timed(ctx, &format!("criu restore -d -D {dir} -o criu.log {options}"), &dir)?;
        ctx.step("reading every key");
        ctx.vm.peer().enter(|| memcached::verify(self.keys))??;
        let drained = "while pgrep -f 'criu lazy-page[s]' >/dev/null; do sleep 0.2; done";
        ctx.vm.try_ssh(drained, LIMIT)?;
        Ok(took)
    }

    /// Forgets the images, so that the next one begins from nothing.
    pub fn forget(&mut self, ctx: &Ctx) -> Result<()> {
        self.rounds = 0;
        ctx.vm.ssh(&format!("rm -rf {IMAGES}")).map(drop)
    }

    /// Ends it for good.
    pub fn end(mut self, ctx: &Ctx) -> Result<()> {
        self.kill(&ctx.vm)?;
        self.forget(ctx)
    }

    fn kill(&self, vm: &Vm) -> Result<()> {
        let pid = self.pid;
        vm.ssh(&format!("kill -KILL {pid} 2>/dev/null; while [ -d /proc/{pid} ]; do sleep 0.05; done")).map(drop)
    }
}

/// Seconds that a command of CRIU's takes; the last words of its log where it fails.
fn timed(ctx: &mut Ctx, command: &str, dir: &str) -> Result<f64> {
    ctx.step(command);
    let script = format!(
        "begun=$(date +%s%N); {{ {command}; }} >/dev/null 2>&1 || {{ tail -n 8 {dir}/criu.log >&2; exit 1; }}; \
         echo $(($(date +%s%N) - begun))"
    );
    let out = ctx.vm.try_ssh(&script, LIMIT)?;
    let nanoseconds: f64 = crate::sh::check(command, out)?.trim().parse()?;
    Ok(nanoseconds / 1e9)
}
