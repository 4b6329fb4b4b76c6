//! Update after update under load: nothing is lost, nothing is left.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use super::afterwards::expect_nothing_left_of_update_to;
use super::update::{Clients, expect_same, fill, observe, verify};
use crate::client::memcached::Keys;
use crate::guest::{self, Service};
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "soak",
    about: "updates in a row under load: no key, no connection lost; no file, rule, process or memory leaked",
    from: STAGED,
    all_only: true,
    run,
};

/// How many updates; `cargo lab soak --updates N` says another number.
pub static UPDATES: AtomicU32 = AtomicU32::new(5);
/// How long what differs from the first update may take to go away.
const SETTLED: Duration = Duration::from_secs(90);
const KEYS: Keys = Keys { count: 2 << 10, size: 8 << 10 };

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = fill(ctx, KEYS)?;
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let kernels = [ctx.about().new_kernel.clone(), ctx.about().old_kernel.clone()];
    let mut first: [Option<Vec<(String, u64)>>; 2] = [None, None];
    let updates = UPDATES.load(Ordering::Relaxed);
    for n in 0..updates {
        let way = n as usize % 2;
        let target = &kernels[way];
        ctx.step(&format!("update {} of {updates}", n + 1));
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &UNITS)?;
        ctx.expect_kernel(target)?;
        expect_nothing_left_of_update_to(ctx, target)?;
        match &mut first[way] {
            // A service may be at something that ends: redis stores its keys, a client comes again.
            Some(first) => ctx.eventually(SETTLED, |ctx| {
                expect_no_growth(first, &kept(ctx, &services)?).with_context(|| open_files(ctx, &services))
            })?,
            none => *none = Some(kept(ctx, &services)?),
        }
    }
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)
}

/// What an update could leave more of each time: kup's files, rules, processes; memory and files of the services.
fn kept(ctx: &Ctx, services: &[Service]) -> Result<Vec<(String, u64)>> {
    let count = |command: &str| -> Result<u64> { Ok(ctx.vm.ssh(command)?.trim().parse()?) };
    let mut kept = vec![
        ("files of kup".into(), count("find /etc/kup /var/lib/kup /run/kup /run/systemd -name '*kup*' | wc -l")?),
        ("network tables".into(), count("nft list tables | wc -l")?),
        ("mounts".into(), count("wc -l </proc/self/mountinfo")?),
        ("words of the command line".into(), count("wc -w </proc/cmdline")?),
    ];
    for (unit, service) in UNITS.iter().zip(services) {
        let pid = service.main_pid;
        kept.push((
            format!("MiB of {unit}"),
            count(&format!("awk '/VmRSS/{{print int($2/1024)}}' /proc/{pid}/status"))?,
        ));
        kept.push((format!("descriptors of {unit}"), count(&format!("ls /proc/{pid}/fd | wc -l"))?));
        kept.push((format!("mappings of {unit}"), count(&format!("wc -l </proc/{pid}/maps"))?));
    }
    Ok(kept)
}

/// What the services have open, for one who looks for a leak.
fn open_files(ctx: &Ctx, services: &[Service]) -> String {
    let pids: Vec<String> = services.iter().map(|s| s.main_pid.to_string()).collect();
    let command = format!("for pid in {}; do ls -l /proc/$pid/fd; done; ss -tnp", pids.join(" "));
    ctx.vm.ssh(&command).unwrap_or_default()
}

/// Memory may vary with the load; nothing else may grow.
fn expect_no_growth(first: &[(String, u64)], now: &[(String, u64)]) -> Result<()> {
    for ((what, was), (_, is)) in first.iter().zip(now) {
        let most = if what.starts_with("MiB") || what.starts_with("mappings") { was + was / 4 + 4 } else { *was };
        ensure!(*is <= most, "{what}: {was} after the first update, {is} now");
    }
    Ok(())
}
