//! The moment of a kexec's jump, and the boot after it, on the host's clock: the guest's own begins anew, to the second.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::vm::Vm;

/// The old kernel's last words.
const JUMP: &[u8] = b"Starting new kernel";
/// The console is looked at so often.
const BEAT: Duration = Duration::from_millis(5);

/// Watches the console for a jump.
#[derive(Debug)]
pub struct Jump {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Option<Instant>>>,
}

impl Jump {
    /// Has the kernel say it, whatever its command line wants, and waits for it in the background.
    pub fn watch(vm: &Vm) -> Result<Self> {
        vm.ssh("dmesg --console-level 7")?;
        let mut log = File::open(vm.spec().serial()).context("cannot read the console's log")?;
        log.seek(SeekFrom::End(0))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self { stop, thread: std::thread::spawn(move || seen(log, &stopped)) })
    }

    /// When it was.
    pub fn seen(self) -> Result<Instant> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().map_err(|_| anyhow!("the console's watcher panicked"))??;
        seen.context("the console did not show the jump to the new kernel")
    }
}

fn seen(mut log: File, stopped: &AtomicBool) -> Result<Option<Instant>> {
    let mut text = Vec::new();
    while !stopped.load(Ordering::Relaxed) {
        log.read_to_end(&mut text)?;
        if text.windows(JUMP.len()).any(|words| words == JUMP) {
            return Ok(Some(Instant::now()));
        }
        std::thread::sleep(BEAT);
    }
    Ok(None)
}

/// When the running boot's clock was zero. The guest is asked a few times; the quickest answer says it best.
pub fn boot_began(vm: &Vm) -> Result<Instant> {
    let mut best: Option<(Duration, Instant)> = None;
    for _ in 0..8 {
        let asked = Instant::now();
        let uptime = vm.ssh("cat /proc/uptime")?;
        let took = asked.elapsed();
        let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
        let zero = asked + took / 2 - Duration::from_secs_f64(uptime);
        if best.is_none_or(|(least, _)| took < least) {
            best = Some((took, zero));
        }
    }
    best.map(|(_, zero)| zero).context("the guest was not asked")
}

/// Seconds from the jump to PID 1 of the boot that runs now: kernel and initrd, and nothing else.
pub fn floor(vm: &Vm, jump: Instant) -> Result<f64> {
    let kernel = boot_began(vm)?.saturating_duration_since(jump).as_secs_f64();
    let userspace = vm.ssh("systemctl show --value -p UserspaceTimestampMonotonic")?;
    Ok(kernel + userspace.trim().parse::<f64>()? / 1e6)
}
