//! The lab itself: the machine comes from its own boot loader and is what the other scenarios take it for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::ready::READY;
use crate::runner::context::Ctx;
use crate::vm::{BOOT_LIMIT, GUEST};

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "boot",
    about: "the machine boots the old kernel through GRUB; its servers answer a real peer, also after a power cut",
    from: READY,
    all_only: false,
    run,
};

fn run(ctx: &mut Ctx) -> Result<()> {
    expect_ready(ctx)?;
    let before = ctx.vm.boot_id()?;
    ctx.step("cutting the power");
    ctx.vm.power_cut()?;
    ctx.vm.wait_new_boot(&before, BOOT_LIMIT)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    expect_ready(ctx)
}

fn expect_ready(ctx: &mut Ctx) -> Result<()> {
    let old = ctx.about().old_kernel.clone();
    ctx.expect_kernel(&old)?;
    let cmdline = ctx.vm.ssh("cat /proc/cmdline")?;
    ensure!(cmdline.contains(&format!("BOOT_IMAGE=/boot/vmlinuz-{old}")), "GRUB did not boot this kernel: {cmdline}");
    ctx.vm.ssh("grep -qx GRUB_DEFAULT=0 /etc/default/grub").context("GRUB's default is not Debian's")?;
    ctx.step("servers are active");
    ctx.vm.ssh("systemctl is-active memcached.service redis-server.service nginx.service")?;
    ctx.step("and answer the peer");
    ctx.vm.peer().enter(|| {
        expect_answer(11211, "version\r\n", "VERSION")?;
        expect_answer(6379, "PING\r\n", "+PONG")?;
        expect_answer(80, "HEAD / HTTP/1.0\r\n\r\n", "HTTP/1.1 200")
    })?
}

fn expect_answer(port: u16, request: &str, answer: &str) -> Result<()> {
    let mut stream = TcpStream::connect((GUEST, port)).with_context(|| format!("cannot connect to port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = [0; 256];
    let length = stream.read(&mut bytes).with_context(|| format!("no answer from port {port}"))?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    ensure!(text.starts_with(answer), "port {port} answers {text:?}");
    Ok(())
}
