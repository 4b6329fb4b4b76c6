//! A service that can be dumped until it is told to change its mind.

use anyhow::Result;

use crate::runner::context::Ctx;

/// CRIU does not know sockets of the kernel's ciphers. A connection to another service would not do: that one is stopped
/// before the checkpoint, and the connection ends with it.
const UNIT: &str = "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/python3 -c 'import os,signal,socket,time\\n\
def f(*a):\\n  global s; s=socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET); s.bind((\"hash\", \"sha256\")); \
open(\"/var/tmp/turned\", \"w\")\\n\
signal.signal(signal.SIGUSR1, f)\\nos.system(\"systemd-notify --ready\")\\nwhile True: time.sleep(1)'\n";

/// Installs, starts and marks `turncoat.service`.
pub fn start(ctx: &mut Ctx) -> Result<()> {
    ctx.vm.put_bytes(UNIT.as_bytes(), "/etc/systemd/system/turncoat.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl start turncoat && kup preserve turncoat").map(drop)
}

/// From now on it cannot be dumped.
pub fn turn(ctx: &mut Ctx) -> Result<()> {
    ctx.step("turncoat.service changes its mind");
    let wait = "until test -e /var/tmp/turned; do sleep 0.1; done; rm /var/tmp/turned";
    ctx.vm.ssh(&format!("systemctl kill -s USR1 turncoat; {wait}")).map(drop)
}
