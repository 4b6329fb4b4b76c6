//! What kup costs while there is no update: nothing.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::guest;
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;
use crate::runner::table::Table;
use crate::scenario::Scenario;
use crate::vm::BOOT_LIMIT;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "idle",
    about: "kup between updates, before the first and after it: resident processes, wake-ups, timers",
    from: STAGED,
    all_only: false,
    run,
};

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(60);
/// Processes of kup's: its programs by name, and CRIU.
const PROCESSES: &str = "pgrep -x 'kup|kupd|kup-worker|kup-placeholder|kup-generator|criu'";
/// What could wake kup up: every unit of its that waits for something.
const WAITING: &str =
    "systemctl list-units --plain --no-legend --type=timer,path,socket,automount | grep -c kup || true";
/// Changes when a unit of kup's has run in between.
const RUNS: &str = "systemctl list-units --all --plain --no-legend 'kup*' | awk '{ print $1 }' | sort | \
                    xargs -r systemctl show -p Id -p InvocationID -p NRestarts kupd.service";

fn run(ctx: &mut Ctx) -> Result<()> {
    let mut table = Table::new(&[("processes", "count"), ("wake-ups", "count"), ("timers and the like", "count")]);
    watch(ctx, "before an update", &mut table)?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &UNITS)?;
    ctx.vm.wait_idle(BOOT_LIMIT)?;
    watch(ctx, "after an update", &mut table)?;
    table.note(format!("watched for {} s, once kupd had left after its last caller", WATCHED.as_secs()));
    let bad: Vec<String> =
        table.values().filter(|v| v.2 > 0.0).map(|v| format!("{}: {} {}", v.0, v.2, v.1.name)).collect();
    ctx.table(&table);
    ensure!(bad.is_empty(), "kup is not idle between updates: {}", bad.join(", "));
    Ok(())
}

fn watch(ctx: &mut Ctx, when: &str, table: &mut Table) -> Result<()> {
    ctx.step(&format!("{when}: waiting until kup is gone"));
    // Somebody has just asked it something.
    ctx.vm.ssh("kup status >/dev/null || true")?;
    guest::until(Duration::from_secs(180), "kup's processes are gone", || !ctx.vm.ssh_ok(PROCESSES))?;
    ctx.step(&format!("{when}: watching"));
    // The watcher lives in the guest, so that nobody comes and goes meanwhile; it looks often enough to meet whoever wakes up.
    let script = format!(
        "before=$({RUNS}); seen=0; for n in $(seq {}); do {PROCESSES} >/dev/null && seen=$((seen + 1)); sleep 1; done; \
         [ \"$before\" = \"$({RUNS})\" ] || seen=$((seen + 1)); echo $seen",
        WATCHED.as_secs()
    );
    let out = ctx.vm.try_ssh(&script, 5 * WATCHED)?;
    let wake_ups: f64 = crate::sh::check("watching kup", out)?.trim().parse()?;
    let processes: f64 = ctx.vm.ssh(&format!("{PROCESSES} | wc -l"))?.trim().parse()?;
    let waiting: f64 = ctx.vm.ssh(WAITING)?.trim().parse()?;
    table.row(when, &[Some(processes), Some(wake_ups), Some(waiting)]);
    Ok(())
}
