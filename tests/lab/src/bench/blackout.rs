//! What a client sees of a change of kernel: by reboot, by kexec with a cold start, and by kup, in one machine.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::client::Pulse;
use crate::client::memcached::{self, Keys};
use crate::guest::{self, LOAD_AGAIN};
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::runner::table::Table;
use crate::scenario::Scenario;
use crate::vm::{BOOT_LIMIT, GUEST, Vm};

use super::console::{self, Jump};

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "blackout",
    about: "how long memcached does not answer: reboot, kexec with cold (empty) start, kup; phases; the least that a kexec takes",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };
const PATIENCE: Duration = Duration::from_secs(1);
/// With the distribution's initrd.
const KUP: &str = "kup";
/// As it comes.
const KUP_SMALL: &str = "kup, small initrd";

fn run(ctx: &mut Ctx) -> Result<()> {
    guest::settings(&ctx.vm, "blackout", "Initrd = \"stock\"\n")?;
    // The reboot first: whoever is first may pay for an emulator that is cold.
    let reboot = cold(ctx, "reboot", "systemctl reboot --no-block")?;
    let kup = kept(ctx, KUP)?;
    let jump = Jump::watch(&ctx.vm)?;
    let kexec = cold(ctx, "kexec", &format!("{LOAD_AGAIN} && systemctl kexec --no-block"))?;
    // Nothing was restored in this boot: what its kernel and initrd took is what every kexec takes.
    let floor = console::floor(&ctx.vm, jump.seen()?)?;
    guest::settings(&ctx.vm, "blackout", "Initrd = \"small\"\n")?;
    let small = kept(ctx, KUP_SMALL)?;
    ctx.table(&table(&Blackouts { reboot, kexec, floor, kups: [(KUP, kup), (KUP_SMALL, small)] }));
    Ok(())
}

/// What a client saw of each change of kernel, in seconds.
struct Blackouts {
    reboot: f64,
    kexec: f64,
    /// From the kexec's jump to PID 1, nothing restored.
    floor: f64,
    /// By name, each with another initrd.
    kups: [(&'static str, Kept); 2],
}

fn table(seen: &Blackouts) -> Table {
    let mut table = Table::new(&[
        ("blackout", "s"),
        ("against kexec", "times"),
        ("against reboot", "times"),
        ("against the floor", "times"),
        ("kup's own gap", "s"),
        ("client against it", "times"),
    ]);
    let mut row = |name: &str, blackout: f64, gap: Option<f64>| {
        let against = |other: f64| Some(blackout / other);
        let against = [Some(blackout), against(seen.kexec), against(seen.reboot), against(seen.floor)];
        table.row(name, &[&against[..], &[gap, gap.map(|gap| blackout / gap)]].concat());
    };
    row("systemctl reboot, cold and empty", seen.reboot, None);
    row("systemctl kexec, cold and empty", seen.kexec, None);
    seen.kups.iter().for_each(|(name, kept)| row(&format!("{name}, everything kept"), kept.blackout, Some(kept.gap)));
    row("the floor: from the kexec's jump to PID 1", seen.floor, None);
    for (name, Kept { blackout, gap }) in &seen.kups {
        table.aim(&format!("{name}, against the floor, times"), blackout / seen.floor, 1.5);
        table.aim(&format!("{name}, against kexec, times"), blackout / seen.kexec, 1.0);
        table.aim(&format!("{name}, client against kup's own gap, times"), blackout / gap, 1.1);
    }
    table.note(
        "the floor is a kexec's with the distribution's initrd; kup's own gap is by the guest's clock, from the freeze",
    );
    table
        .note("until the connections are released, and may be wrong by as much as a second; a client asks every 50 ms");
    table
}

/// What an update took, in seconds.
struct Kept {
    /// What the client saw.
    blackout: f64,
    /// What kup says itself.
    gap: f64,
}

/// Goes to the other kernel with kup.
fn kept(ctx: &mut Ctx, name: &str) -> Result<Kept> {
    // Not all of them are enabled.
    ctx.vm.ssh(&format!("systemctl start {}", UNITS.join(" ")))?;
    ctx.vm.peer().enter(|| memcached::fill(KEYS))??;
    let client = Pulse::start("memcached", ctx.vm.peer(), || memcached::Client::connect(KEYS))?;
    let target = guest::other_kernel(ctx)?;
    let record = guest::update(ctx, &format!("--target {target}"))?;
    guest::expect_done(&record, &UNITS)?;
    let blackout = client.stop()?.blackout.as_secs_f64();
    for (phase, took) in guest::phases(&record) {
        ctx.figure(&format!("{name}: {phase}"), took, "s");
    }
    boot_phases(ctx, name)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    Ok(Kept { blackout, gap: guest::gap(&record)? })
}

/// Goes down by `command`; gives the time without an answer.
fn cold(ctx: &mut Ctx, name: &str, command: &str) -> Result<f64> {
    let before = ctx.vm.boot_id()?;
    let probe = Probe::start(&ctx.vm)?;
    std::thread::sleep(Duration::from_secs(1));
    ctx.step(command);
    ctx.vm.ssh(command)?;
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    let blackout = probe.stop()?;
    boot_phases(ctx, name)?;
    Ok(blackout)
}

/// How long kernel and initrd took (an initrd without systemd does not say when it began), and systemd until memcached
/// was up.
fn boot_phases(ctx: &mut Ctx, name: &str) -> Result<()> {
    let vm = &ctx.vm;
    let manager = |property: &str| -> Result<f64> {
        Ok(vm.ssh(&format!("systemctl show --value -p {property}"))?.trim().parse::<f64>()? / 1e6)
    };
    let userspace = manager("UserspaceTimestampMonotonic")?;
    let up = vm.ssh("systemctl show --value -p ActiveEnterTimestampMonotonic memcached.service")?;
    let up = up.trim().parse::<f64>()? / 1e6;
    ctx.figure(&format!("{name}: kernel and initrd"), userspace, "s");
    ctx.figure(&format!("{name}: systemd until memcached is up"), up - userspace, "s");
    Ok(())
}

/// Asks memcached for its version again and again, on a new connection each time.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Probe {
    fn start(vm: &Vm) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = vm.peer().spawn(move || {
            let (mut last, mut longest) = (Instant::now(), 0.0_f64);
            while !stopped.load(Ordering::Relaxed) {
                if ask().is_ok() {
                    longest = longest.max(last.elapsed().as_secs_f64());
                    last = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            longest
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the probe panicked"))?
    }
}

fn ask() -> Result<()> {
    let address = format!("{GUEST}:11211").parse()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"version\r\n")?;
    let mut answer = [0; 64];
    ensure!(stream.read(&mut answer)? > 0, "memcached says nothing");
    Ok(())
}
