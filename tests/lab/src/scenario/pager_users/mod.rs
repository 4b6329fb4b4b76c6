//! Real users of the memory system at work while their memory is still missing: jemalloc (redis, which also forks to save),
//! glibc (the test server), Go's runtime and a JVM. Each knows what its memory has to be.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_nothing_left_of_update_to;
use crate::client::memcached::Keys;
use crate::client::{Connection, Pulse, Talk, redis};
use crate::guest::{self, Service};
use crate::ready::{self, STAGED};
use crate::runner::context::Ctx;
use crate::{deb, toolchain};

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "pager-users",
    about: "jemalloc, glibc, Go and a JVM free, move, fork and allocate while their memory is missing; their pagers die",
    from: STAGED,
    all_only: true,
    run,
};

/// What nobody changes; redis has 16 MiB more that are changed.
const KEYS: Keys = Keys::mib(64);
/// What each filler of a pager waits before a piece, in milliseconds.
const SLOW: u32 = 200;
const REDIS: &str = "redis-server.service";
const GLIBC: &str = "kup-testserver.service";
const GO: &str = "lab-go.service";
const JVM: &str = "lab-jvm.service";
const UNITS: [&str; 4] = [REDIS, GLIBC, GO, JVM];
/// Rounds that each must have done before its memory was back.
const ROUNDS: usize = 3;

/// Asks a checker again and again to look at some of its memory and to have new memory for it.
struct Rounds {
    connection: Connection,
    /// What a round is asked for by, and what a good answer begins with.
    requests: &'static [(&'static str, &'static str)],
}

impl Rounds {
    /// What checkers in other languages understand.
    const PLAIN: &'static [(&'static str, &'static str)] = &[("round", "ok ")];
    /// What the test server does; it tells the journal only when it is asked to.
    const GLIBC: &'static [(&'static str, &'static str)] = &[("check allocator", "ok allocator"), ("log round", "ok")];

    fn connect(port: u16, requests: &'static [(&'static str, &'static str)]) -> Result<Self> {
        Ok(Self { connection: Connection::open(port)?, requests })
    }
}

impl Talk for Rounds {
    fn exchange(&mut self, _: u64) -> Result<()> {
        for (request, good) in self.requests {
            ask(&mut self.connection, request, good)?;
        }
        Ok(())
    }
}

fn ask(connection: &mut Connection, request: &str, good: &str) -> Result<()> {
    connection.send(format!("{request}\n").as_bytes())?;
    let answer = connection.line()?;
    ensure!(answer.starts_with(good), "the answer to {request} is: {answer}");
    Ok(())
}

fn run(ctx: &mut Ctx) -> Result<()> {
    install(ctx)?;
    let services = start(ctx)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    update_at_work(ctx, &services, &new)?;
    ctx.step("and back; each pager is killed twice while it brings memory");
    ctx.vm.put_bytes(killer().as_bytes(), "/etc/systemd/system/lab-killer.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-killer.service")?;
    update_at_work(ctx, &services, &old)?;
    for unit in UNITS {
        let said = ctx.vm.ssh(&format!("journalctl -b -u kup-pager@{unit} -o cat"))?;
        let again = said.matches("Scheduled restart job").count();
        ensure!(again == 2, "the pager of {unit} was started again {again} times: {said}");
    }
    Ok(())
}

/// An update to the kernel `target` under load, of which nobody may notice more than a pause.
fn update_at_work(ctx: &mut Ctx, services: &[Service], target: &str) -> Result<()> {
    ctx.step("clients connect");
    let peer = ctx.vm.peer();
    let clients = [
        Pulse::start("redis", peer, || redis::Churn::connect(KEYS))?,
        Pulse::start("the test server", peer, || Rounds::connect(7070, Rounds::GLIBC))?,
        Pulse::start("the Go program", peer, || Rounds::connect(7071, Rounds::PLAIN))?,
        Pulse::start("the JVM", peer, || Rounds::connect(7072, Rounds::PLAIN))?,
    ];
    let record = guest::update(ctx, &format!("--target {target}"))?;
    guest::expect_done(&record, &UNITS)?;
    ctx.expect_kernel(target)?;
    for client in clients {
        let rhythm = client.stop()?;
        ctx.step(&format!("{} rounds, {:.1} s without an answer", rhythm.requests, rhythm.blackout.as_secs_f64()));
    }
    for (unit, was) in UNITS.iter().zip(services) {
        let is = guest::service(&ctx.vm, unit)?;
        ensure!(is == *was && is.restarts == 0, "{unit} was {was:?} and is {is:?}");
    }
    for (unit, sign) in [(REDIS, "Background saving started"), (GLIBC, "round"), (GO, "round"), (JVM, "round")] {
        let least = if unit == REDIS { 1 } else { ROUNDS };
        expect_done_meanwhile(ctx, unit, sign, least)?;
    }
    ctx.step("every word of all of it");
    ctx.vm.peer().enter(|| -> Result<()> {
        redis::verify(KEYS)?;
        crate::client::testserver::check()?;
        [7071, 7072].into_iter().try_for_each(|port| ask(&mut Connection::open(port)?, "all", "ok "))
    })??;
    expect_saved(ctx)?;
    expect_nothing_left_of_update_to(ctx, target)
}

/// Waits for the moment when tasks run, then kills each pager twice, a second after it has begun.
fn killer() -> String {
    format!(
        "[Unit]\nDefaultDependencies=no\nConditionKernelCommandLine=kup.txn\nBefore=kup-restore.service\n\
         [Service]\nExecStart=/bin/sh -c 'until grep -q \\'\"resumed\"\\' /etc/kup/record.json; do sleep 0.1; done; \
         for n in 1 2; do sleep 1; for unit in {}; do \
         systemctl kill --kill-whom=main --signal=KILL kup-pager@$unit; done; done'\n\
         [Install]\nWantedBy=kup-restore.service\n",
        UNITS.join(" ")
    )
}

/// Pagers that take their time, and programs that the machine does not have.
fn install(ctx: &mut Ctx) -> Result<()> {
    ctx.step("building the checkers, and a kup whose pagers are slow");
    deb::compile_with_faults()?;
    ctx.vm.put(&deb::binary_with_faults(), "/usr/libexec/kup/kup-worker")?;
    let slow = format!("[Service]\nEnvironment=FAILPOINTS=pager.fill=sleep({SLOW})\n");
    ctx.vm.put_bytes(slow.as_bytes(), "/etc/systemd/system/kup-pager@.service.d/50-slow.conf")?;

    let toolchain = toolchain::ensure()?;
    let go = toolchain.go("checker", include_str!("checker.go"))?;
    ctx.vm.put(&go, "/usr/local/bin/lab-go")?;
    let java = toolchain.java("Checker", include_str!("Checker.java"))?;
    ctx.vm.put(&java, "/root/java.tar.gz")?;
    ctx.vm.ssh("chmod 755 /usr/local/bin/lab-go && tar -C /usr/local/lib --no-same-owner -xzf /root/java.tar.gz")?;
    let unit =
        |command: &str| format!("[Service]\nType=exec\nDynamicUser=yes\nRestart=on-failure\nExecStart={command}\n");
    ctx.vm.put_bytes(unit("/usr/local/bin/lab-go 7071").as_bytes(), &format!("/etc/systemd/system/{GO}"))?;
    // G1, which a machine as small as this would not be given, with a heap that grows and shrinks with what is in it.
    let java = "/usr/local/lib/java/jre/bin/java -XX:+UseG1GC -Xms24m -Xmx192m -XX:MinHeapFreeRatio=5 \
                -XX:MaxHeapFreeRatio=10 -cp /usr/local/lib/java Checker 7072";
    ctx.vm.put_bytes(unit(java).as_bytes(), &format!("/etc/systemd/system/{JVM}"))
}

/// Starts all of it, and nothing else.
fn start(ctx: &mut Ctx) -> Result<Vec<Service>> {
    ctx.step(&format!("kup preserve {}", UNITS.join(" ")));
    ctx.vm.ssh(&format!("kup release {0} && systemctl disable --now {0}", ready::units_but(&UNITS)))?;
    let large = b"[Service]\nEnvironment=KUP_TESTSERVER_ALLOCATOR_MIB=64\n";
    ctx.vm.put_bytes(large, &format!("/etc/systemd/system/{GLIBC}.d/50-large.conf"))?;
    // It tells the journal what it does, and saves only when it is asked to.
    ctx.vm.ssh("sed -i 's/^logfile .*/logfile \"\"/; s/^save .*//; $a save \"\"' /etc/redis/redis.conf")?;
    ctx.vm.ssh(&format!("systemctl daemon-reload && kup preserve {0} && systemctl restart {0}", UNITS.join(" ")))?;
    ctx.eventually(Duration::from_secs(120), |ctx| {
        let ports = ctx.vm.ssh("ss -Hltn | grep -cE ':(6379|7070|7071|7072) ' || true")?;
        ensure!(ports.trim() == "4", "{} of 4 programs listen", ports.trim());
        Ok(())
    })?;
    ctx.vm.peer().enter(|| -> Result<()> {
        redis::fill(KEYS)?;
        let allocator = redis::info("memory", "mem_allocator")?;
        ensure!(allocator.starts_with("jemalloc"), "redis has {allocator}");
        Ok(())
    })??;
    UNITS.iter().map(|unit| guest::service(&ctx.vm, unit)).collect()
}

/// In the new boot, `unit` said `sign` at least so often before its pager was done.
fn expect_done_meanwhile(ctx: &mut Ctx, unit: &str, sign: &str, least: usize) -> Result<()> {
    // What the pager itself says last is not always known to be its unit's.
    let done = format!("kup-pager@{unit}: Deactivated successfully");
    let text = ctx.vm.ssh(&format!("journalctl --sync; journalctl -b -o cat -u {unit} -u kup-pager@{unit}"))?;
    let (before, _) = text.split_once(&done).with_context(|| format!("the pager of {unit} has not ended: {text}"))?;
    let count = before.lines().filter(|line| line.contains(sign)).count();
    let report = ctx.vm.ssh(&format!("journalctl -b -o cat -t kup-worker | grep -F '{unit} has all its memory'"))?;
    let said = format!("said '{sign}' {count} times while memory was missing; {}", report.trim());
    ctx.step(&said);
    ensure!(count >= least, "{unit} {said}");
    Ok(())
}

/// What redis's forked child has saved is what redis had: another redis reads it.
fn expect_saved(ctx: &mut Ctx) -> Result<()> {
    ctx.step("what redis saved while memory was missing");
    ctx.eventually(Duration::from_secs(120), |ctx| {
        let info = |key| ctx.vm.peer().enter(move || redis::info("persistence", key))?;
        let (busy, last) = (info("rdb_bgsave_in_progress")?, info("rdb_last_bgsave_status")?);
        ensure!(busy == "0" && last == "ok", "saving: {busy}, the last one is {last}");
        Ok(())
    })?;
    ctx.vm.ssh(
        "mkdir -p /srv/saved && cp /var/lib/redis/dump.rdb /srv/saved/ && cd / && redis-server --port 6380 --bind 0.0.0.0 \
         --protected-mode no --dir /srv/saved --save '' --daemonize yes",
    )?;
    ctx.eventually(Duration::from_secs(60), |ctx| ctx.vm.peer().enter(|| redis::verify_at(6380, KEYS))?)?;
    ctx.vm.ssh("redis-cli -p 6380 shutdown nosave").map(drop)
}
