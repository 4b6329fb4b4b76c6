//! Three updates in a row with the same processes all the way: what one update leaves must not spoil the next. Each begins
//! with another initrd.

use anyhow::{Result, ensure};

use super::Scenario;
use super::update::{Clients, expect_same, fill, observe, verify};
use crate::client::memcached::Keys;
use crate::client::testserver;
use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "update-thrice",
    about: "old to new, back to old, and to new again, with the same processes and connections all the way",
    from: STAGED,
    all_only: false,
    run,
};

const KEYS: Keys = Keys { count: 1 << 10, size: 8 << 10 };

/// What an administrator has run in each initrd of initramfs-tools, and while one is made.
const SCRIPT: &str =
    "#!/bin/sh\n[ \"$1\" = prereqs ] && exit\necho \"<6>lab: script with $(cat /conf/lab)\" >/dev/kmsg\n";
const HOOK: &str = "#!/bin/sh\n[ \"$1\" = prereqs ] && exit\necho a hook >\"$DESTDIR/conf/lab\"\n";
const SCRIPTS: [(&str, &str); 2] =
    [("/etc/initramfs-tools/scripts/init-premount/lab", SCRIPT), ("/etc/initramfs-tools/hooks/lab", HOOK)];

/// What the target begins with.
#[derive(Debug, Clone, Copy)]
enum Initrd {
    /// kup's own, which the machine has if nobody says anything.
    Own,
    /// The one that initramfs-tools make for it.
    Made,
    /// The distribution's.
    Stock,
}

fn run(ctx: &mut Ctx) -> Result<()> {
    let services = fill(ctx, KEYS)?;
    let before = observe(ctx)?;
    let clients = Clients::connect(ctx, KEYS)?;
    let (old, new) = (ctx.about().old_kernel.clone(), ctx.about().new_kernel.clone());
    for (target, initrd) in [(&new, Initrd::Own), (&old, Initrd::Made), (&new, Initrd::Stock)] {
        initrd.prepare(ctx)?;
        let record = guest::update(ctx, &format!("--target {target}"))?;
        guest::expect_done(&record, &UNITS)?;
        ctx.expect_kernel(target)?;
        initrd.expect(ctx)?;
        ctx.vm.peer().enter(testserver::check)??;
        let default = ctx.vm.ssh("kup status --json")?;
        ensure!(default.contains(target.as_str()), "kup status does not name {target}: {default}");
    }
    clients.finish(ctx)?;
    expect_same(ctx, &services, &before)?;
    verify(ctx, KEYS)
}

impl Initrd {
    fn prepare(self, ctx: &mut Ctx) -> Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Made => SCRIPTS.iter().try_for_each(|(path, text)| {
                ctx.vm.put_bytes(text.as_bytes(), path)?;
                ctx.vm.ssh(&format!("chmod 755 {path}")).map(drop)
            }),
            Self::Stock => guest::settings(&ctx.vm, "initrd", "Initrd = \"stock\"\n"),
        }
    }

    fn expect(self, ctx: &mut Ctx) -> Result<()> {
        // With the names before the messages, which journald has taken from them.
        let said = ctx.vm.ssh("journalctl -b -k -o short")?;
        let expected = match self {
            Self::Own => (true, false),
            Self::Made => (false, true),
            Self::Stock => (false, false),
        };
        let found = (said.contains("kup-init: the root file system is on"), said.contains("lab: script with a hook"));
        ensure!(found == expected, "{self:?}: kup-init and the script were {found:?}, not {expected:?}");
        Ok(())
    }
}
