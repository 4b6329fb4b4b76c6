//! What goes wrong with the new kernel.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::runner::context::Ctx;

/// A first process that does nothing.
const HANG: &str = "#!/bin/sh\nwhile :; do sleep 1000; done\n";
/// An initrd without a first process has the kernel look for the root file system by itself; of several `root=` the last counts,
/// and a partition's id is the name of what may still come (init/do_mounts.c).
const NO_ROOT: &str = "rdinit=/none root=PARTUUID=never rootwait";
/// Starts before memcached in the new boot, and never ends.
const STUCK: &str = "[Unit]\nDefaultDependencies=no\nBefore=memcached.service\nConditionKernelCommandLine=kup.txn\n\
    [Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/usr/bin/sleep infinity\n\
    [Install]\nWantedBy=memcached.service\n";

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The first process of the new boot ends, and the kernel panics.
    Panic,
    /// The kernel waits for ever, and has no first process.
    HangKernel,
    /// The first process does nothing.
    HangInit,
    /// A unit that something waits for.
    StuckRestore,
    /// The boot ends in an emergency shell.
    Emergency,
    /// No power, as soon as the new kernel has said its first words.
    PowerCut,
}

impl Trouble {
    /// Sets it up on the machine.
    pub fn prepare(self, ctx: &mut Ctx) -> Result<()> {
        let arguments = match self {
            Trouble::Panic => "init=/bin/false",
            Trouble::HangKernel => NO_ROOT,
            Trouble::HangInit => "init=/srv/kup-lab/hang",
            Trouble::Emergency => "systemd.unit=emergency.target",
            Trouble::StuckRestore | Trouble::PowerCut => "",
        };
        // Where kup itself is to find out, the watchdog is to be the slower one, also on a slow machine.
        let by_kup = matches!(self, Trouble::StuckRestore | Trouble::Emergency);
        let deadman = if by_kup { 600 } else { 120 };
        // So that the console tells when it begins.
        let settings =
            format!("KernelArguments = \"loglevel=7 {arguments}\"\nRestoreTimeoutSec = 40\nDeadmanSec = {deadman}\n");
        ctx.vm.put_bytes(settings.as_bytes(), "/etc/kup/kup.toml")?;
        match self {
            Trouble::HangInit => {
                ctx.vm.put_bytes(HANG.as_bytes(), "/srv/kup-lab/hang")?;
                ctx.vm.ssh("chmod 755 /srv/kup-lab/hang")?;
            }
            Trouble::StuckRestore => {
                ctx.vm.put_bytes(STUCK.as_bytes(), "/etc/systemd/system/lab-stuck.service")?;
                ctx.vm.ssh("systemctl daemon-reload && systemctl enable lab-stuck.service")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Sees it happen, or makes it.
    pub fn happens(self, ctx: &mut Ctx) -> Result<()> {
        let begun = format!("Linux version {}", ctx.about().new_kernel);
        wait_console(ctx, &begun)?;
        ctx.step("the new kernel begins");
        match self {
            Trouble::PowerCut => {
                std::thread::sleep(Duration::from_secs(4));
                ctx.step("the power goes");
                ctx.vm.power_cut()
            }
            Trouble::Panic => wait_console(ctx, "Kernel panic - not syncing"),
            Trouble::HangKernel => wait_console(ctx, "Waiting for root device PARTUUID=never"),
            _ => Ok(()),
        }
    }

    /// The record says why.
    pub fn expect_reason(self, record: &Value) -> Result<()> {
        let reason = record["reason"].as_str().unwrap_or_default();
        let says = match self {
            Trouble::StuckRestore => "memcached.service cannot be restored",
            Trouble::HangKernel | Trouble::HangInit => "hung, and the watchdog reset the machine",
            Trouble::Panic | Trouble::PowerCut | Trouble::Emergency => "did not come up",
        };
        ensure!(reason.contains(says), "the reason is {reason:?}");
        Ok(())
    }
}

fn wait_console(ctx: &Ctx, text: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !ctx.vm.serial_log().contains(text) {
        ensure!(Instant::now() < deadline, "the console never said '{text}'");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
