//! A service that can be dumped until it is told to change its mind.

use anyhow::Result;

use crate::runner::context::Ctx;

/// Somebody to be connected to: half a stream connection cannot be dumped.
const PEER: &str = "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/python3 -c 'import os,socket\\n\
s=socket.socket(socket.AF_UNIX)\\ns.bind(\"/run/turncoat-peer\")\\ns.listen()\\n\
os.system(\"systemd-notify --ready\")\\nheld=[]\\nwhile True: held.append(s.accept())'\n";
const UNIT: &str = "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/usr/bin/python3 -c 'import os,signal,socket,time\\n\
def f(*a):\\n  global s; s=socket.socket(socket.AF_UNIX); s.connect(\"/run/turncoat-peer\"); open(\"/var/tmp/turned\", \"w\")\\n\
signal.signal(signal.SIGUSR1, f)\\nos.system(\"systemd-notify --ready\")\\nwhile True: time.sleep(1)'\n";

/// Installs, starts and marks `turncoat.service`.
pub fn start(ctx: &mut Ctx) -> Result<()> {
    ctx.vm.put_bytes(PEER.as_bytes(), "/etc/systemd/system/turncoat-peer.service")?;
    ctx.vm.put_bytes(UNIT.as_bytes(), "/etc/systemd/system/turncoat.service")?;
    ctx.vm.ssh("systemctl daemon-reload && systemctl start turncoat-peer turncoat && kup preserve turncoat").map(drop)
}

/// From now on it cannot be dumped.
pub fn turn(ctx: &mut Ctx) -> Result<()> {
    ctx.step("turncoat.service changes its mind");
    let wait = "until test -e /var/tmp/turned; do sleep 0.1; done; rm /var/tmp/turned";
    ctx.vm.ssh(&format!("systemctl kill -s USR1 turncoat; {wait}")).map(drop)
}
