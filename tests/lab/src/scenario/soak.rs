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
    let mut first: [Option<Vec<Kept>>; 2] = [None, None];
    let mut last = Vec::new();
    let updates = UPDATES.load(Ordering::Relaxed);
    for n in 0..updates {
        let way = n as usize % 2;
        let target = &kernels[way];
        ctx.step(&format!("update {} of {updates}", n + 1));
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &UNITS)?;
        ctx.expect_kernel(target)?;
        expect_nothing_left_of_update_to(ctx, target)?;
        last = match &first[way] {
            // A service may be at something that ends: redis stores its keys, a client comes again.
            Some(first) => ctx.eventually(SETTLED, |ctx| {
                let now = kept(ctx, &services)?;
                expect_no_growth(first, &now).with_context(|| open_files(ctx, &services))?;
                Ok(now)
            })?,
            None => kept(ctx, &services)?,
        };
        first[way].get_or_insert_with(|| last.clone());
    }
    let connections = clients.count();
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)?;
    report(ctx, updates, connections, &first, &last);
    Ok(())
}

/// What can be said of a soak that has come to its end: whoever had lost anything would have ended it.
fn report(ctx: &mut Ctx, updates: u32, connections: usize, first: &[Option<Vec<Kept>>; 2], last: &[Kept]) {
    for (name, value) in [
        ("updates", f64::from(updates)),
        // memcached's and redis's.
        ("keys read back", 2.0 * KEYS.count as f64),
        ("keys lost", 0.0),
        ("connections that were held all the way", connections as f64),
        ("connections dropped", 0.0),
        ("services that are the same processes", UNITS.len() as f64),
    ] {
        ctx.figure(name, value, "");
    }
    // The first update to the kernel that runs now.
    let way = (updates as usize + 1) % 2;
    for (was, is) in first[way].iter().flatten().zip(last) {
        ctx.figure(&format!("{}, after the first update to this kernel", was.what), was.count as f64, "");
        ctx.figure(&format!("{}, after the last", is.what), is.count as f64, "");
    }
}

/// How much there is of something that an update could leave more of each time.
#[derive(Debug, Clone)]
struct Kept {
    what: String,
    count: u64,
    /// By how much it may differ without having been left.
    slack: u64,
}

impl Kept {
    fn exactly(what: impl Into<String>, count: u64) -> Self {
        Self { what: what.into(), count, slack: 0 }
    }

    /// Memory varies with the load.
    fn about(what: impl Into<String>, count: u64) -> Self {
        Self { what: what.into(), count, slack: count / 4 + 4 }
    }
}

/// kup's files, rules, devices; processes and memory of the machine; memory and files of the services.
fn kept(ctx: &Ctx, services: &[Service]) -> Result<Vec<Kept>> {
    let count = |command: &str| -> Result<u64> { Ok(ctx.vm.ssh(command)?.trim().parse()?) };
    let mut kept = Vec::new();
    for (what, command) in [
        ("files of kup", "find /etc/kup /var/lib/kup /run/kup /run/systemd -name '*kup*' | wc -l"),
        ("network tables", "nft list tables | wc -l"),
        ("mounts", "wc -l </proc/self/mountinfo"),
        ("words of the command line", "wc -w </proc/cmdline"),
        // Where these tools are not there, there is nothing of theirs either.
        ("devices of the device mapper", "dmsetup ls 2>/dev/null | grep -v 'No devices' | wc -l"),
        ("loop devices", "losetup --list --noheadings 2>/dev/null | wc -l"),
        ("huge pages", "cat /proc/sys/vm/nr_hugepages"),
    ] {
        kept.push(Kept::exactly(what, count(command)?));
    }
    // Those of the kernel come and go, and so do a few of systemd's.
    let processes = count("ps --ppid 2 -p 2 --deselect -o pid= | wc -l")?;
    kept.push(Kept { slack: 4, ..Kept::exactly("processes", processes) });
    // The page cache is not in use, as it can be had at any time.
    let used = "awk '/^MemTotal:/ { all = $2 } /^MemAvailable:/ { print int((all - $2) / 1024) }' /proc/meminfo";
    kept.push(Kept::about("MiB of the machine in use", count(used)?));
    for (unit, service) in UNITS.iter().zip(services) {
        let pid = service.main_pid;
        let memory = count(&format!("awk '/VmRSS/{{print int($2/1024)}}' /proc/{pid}/status"))?;
        kept.push(Kept::about(format!("MiB of {unit}"), memory));
        kept.push(Kept::exactly(format!("descriptors of {unit}"), count(&format!("ls /proc/{pid}/fd | wc -l"))?));
        kept.push(Kept::about(format!("mappings of {unit}"), count(&format!("wc -l </proc/{pid}/maps"))?));
    }
    Ok(kept)
}

/// What the services have open, for one who looks for a leak.
fn open_files(ctx: &Ctx, services: &[Service]) -> String {
    let pids: Vec<String> = services.iter().map(|s| s.main_pid.to_string()).collect();
    let command = format!("for pid in {}; do ls -l /proc/$pid/fd; done; ss -tnp", pids.join(" "));
    ctx.vm.ssh(&command).unwrap_or_default()
}

/// Nothing is more than it was, but for what it may vary by.
fn expect_no_growth(first: &[Kept], now: &[Kept]) -> Result<()> {
    for (was, is) in first.iter().zip(now) {
        ensure!(
            is.count <= was.count + was.slack,
            "{}: {} after the first update, {} now",
            was.what,
            was.count,
            is.count
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth() {
        let was = [Kept::exactly("files", 3), Kept::about("MiB", 100)];
        let grown = |files, mib| expect_no_growth(&was, &[Kept::exactly("files", files), Kept::about("MiB", mib)]);
        assert!(grown(3, 129).is_ok() && grown(0, 0).is_ok());
        assert!(grown(4, 100).unwrap_err().to_string().contains("files: 3 after the first update, 4 now"));
        assert!(grown(3, 130).is_err());
    }
}
