//! The Debian package: installs what it should, and nothing of it is lame.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::ready::READY;
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "package",
    about: "the package's units verify, its services are left alone, and it can be removed, purged and installed again",
    from: READY,
    all_only: false,
    run,
};

const SERVERS: &str = "systemctl show -p MainPID --value memcached.service redis-server.service nginx.service";

fn run(ctx: &mut Ctx) -> Result<()> {
    ctx.step("units");
    let units = ctx
        .vm
        .ssh("dpkg -L kup | grep -E '^/usr/lib/systemd/system/[^/]*kup[^/]*[.](service|target|timer|path|socket)$'")?;
    let units: Vec<&str> = units.lines().filter(|unit| !unit.contains("dbus-")).collect();
    ensure!(!units.is_empty(), "the package has no units");
    let said = ctx
        .vm
        .try_ssh(&format!("systemd-analyze verify --man=no {} 2>&1", units.join(" ")), Duration::from_secs(120))?;
    ensure!(said.ok() && said.text().is_empty(), "systemd-analyze verify: {}", said.text());
    ctx.step("the generator, run anew, leaves a machine in good state");
    ctx.vm.ssh("systemctl daemon-reload")?;
    let failed = ctx.vm.ssh("systemctl --failed --no-legend --plain")?;
    ensure!(failed.trim().is_empty(), "units have failed: {failed}");
    ctx.step("removed, purged, installed again: servers do not notice");
    // The lab's own.
    ctx.vm.ssh("rm -r /usr/lib/kup/kup.toml.d; rmdir --ignore-fail-on-non-empty /usr/lib/kup")?;
    let before = ctx.vm.ssh(SERVERS)?;
    ctx.vm.ssh("dpkg --remove kup && dpkg --purge kup").context("the package cannot be removed")?;
    let left =
        ctx.vm.ssh("find /etc /usr /var/lib -xdev \\( -name 'kup*' -o -name '*[!a-z]kup*' \\) -not -path '*kup-lab*' -not -path '*testserver*'")?;
    ensure!(left.trim().is_empty(), "purging leaves {left}");
    ctx.vm.ssh("dpkg -i /root/kup.deb").context("the package cannot be installed again")?;
    let after = ctx.vm.ssh(SERVERS)?;
    ensure!(before == after, "servers were restarted: {before} and {after}");
    Ok(())
}
