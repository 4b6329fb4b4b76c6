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

fn run(ctx: &mut Ctx) -> Result<()> {
    guest::settings(&ctx.vm, "blackout", "Initrd = \"stock\"\n")?;
    // The reboot first: whoever is first may pay for an emulator that is cold.
    let reboot = cold(ctx, "reboot", "systemctl reboot --no-block")?;
    let kup = kept(ctx, "kup")?;
    let jump = Jump::watch(&ctx.vm)?;
    let kexec = cold(ctx, "kexec", &format!("{LOAD_AGAIN} && systemctl kexec --no-block"))?;
    // Nothing was restored in this boot: what its kernel and initrd took is what every kexec takes.
    let floor = console::floor(&ctx.vm, jump.seen()?)?;
    guest::settings(&ctx.vm, "blackout", "Initrd = \"small\"\n")?;
    let small = kept(ctx, "kup, small initrd")?;
    ctx.figure("blackout: kup, everything kept", kup, "s");
    ctx.figure("blackout: kup, everything kept, small initrd", small, "s");
    ctx.figure("blackout: systemctl kexec, cold and empty", kexec, "s");
    ctx.figure("blackout: systemctl reboot, cold and empty", reboot, "s");
    ctx.figure("floor: from the kexec's jump to PID 1, nothing restored", floor, "s");
    ctx.figure("kup against the floor", kup / floor, "times");
    ctx.figure("kup against kexec", kup / kexec, "times");
    ctx.figure("kup against reboot", kup / reboot, "times");
    ctx.figure("kup with a small initrd, against the floor", small / floor, "times");
    ctx.figure("kup with a small initrd, against kexec", small / kexec, "times");
    Ok(())
}

/// Goes to the other kernel with kup; gives the time without an answer.
fn kept(ctx: &mut Ctx, name: &str) -> Result<f64> {
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
    Ok(blackout)
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
