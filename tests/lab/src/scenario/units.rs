//! Services of every type in every kind of sandbox: each lives on, or is refused with the id that the table says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Scenario;
use super::afterwards::expect_no_leftovers;
use crate::guest::{self, Service};
use crate::ready::{STAGED, UNITS};
use crate::runner::context::Ctx;

/// Its entry in the registry.
pub const SCENARIO: Scenario = Scenario {
    name: "units",
    about: "a table of Type= and sandboxes: each unit lives through an update, or is refused with the right id",
    from: STAGED,
    all_only: false,
    run,
};

/// Proves that its memory lived.
const PROGRAM: &str = include_str!("units.py");

/// A unit `lab-TYPE-SANDBOX.service`.
struct Row {
    kind: &'static str,
    sandbox: &'static str,
    /// The one blocker that it has; empty where it is preserved.
    id: &'static str,
}

const fn lives(kind: &'static str, sandbox: &'static str) -> Row {
    Row { kind, sandbox, id: "" }
}

const fn refused(kind: &'static str, sandbox: &'static str, id: &'static str) -> Row {
    Row { kind, sandbox, id }
}

/// Every type in at least two sandboxes, every sandbox with at least two types.
const TABLE: &[Row] = &[
    lives("simple", "none"),
    lives("simple", "users"),
    lives("simple", "filter"),
    lives("simple", "commands"),
    lives("exec", "hardened"),
    lives("exec", "dynamic"),
    lives("exec", "network"),
    lives("simple", "network"),
    lives("exec", "template"),
    lives("forking", "none"),
    lives("forking", "hardened"),
    lives("forking", "filter"),
    lives("forking", "delegate"),
    lives("notify", "hardened"),
    lives("notify", "users"),
    lives("notify", "delegate"),
    lives("notify", "template"),
    lives("notify-reload", "dynamic"),
    lives("notify-reload", "commands"),
    lives("simple", "behind"),
    lives("exec", "behind"),
    refused("simple", "not-restarted", "unit.adjust-pending"),
    refused("exec", "journal-network", "sockets.network-namespace"),
    refused("forking", "same-session", "process.not-session-leader"),
    refused("notify", "bus-name", "unit.type"),
    refused("simple", "bound", "unit.order"),
];

/// Not preserved, and ordered between two that are.
const BETWEEN: &str = "[Unit]\nAfter=lab-simple-none.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
    ExecStart=/usr/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// Everything that `systemd-analyze security` recommends, but for three: RootDirectory= and, with the journal,
/// PrivateNetwork=, which are refused, and RestrictAddressFamilies=~AF_UNIX, without which systemd cannot be told anything.
const HARDENED: &str = "User=lab-unit
AmbientCapabilities=
CapabilityBoundingSet=
DevicePolicy=closed
IPAddressDeny=any
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
";

impl Row {
    fn name(&self) -> String {
        format!("lab-{}-{}", self.kind, self.sandbox)
    }

    fn unit(&self) -> String {
        format!("{}{}.service", self.name(), if self.sandbox == "template" { "@one" } else { "" })
    }

    fn file(&self) -> String {
        format!("/etc/systemd/system/{}{}.service", self.name(), if self.sandbox == "template" { "@" } else { "" })
    }

    fn text(&self) -> String {
        let (name, kind) = (self.name(), self.kind);
        let mark = if self.sandbox == "not-restarted" { "" } else { "[X-KUP]\nKUPPreserve=yes\n" };
        let mut text = format!("{mark}[Service]\nType={kind}\nRestart=on-failure\n");
        let program = "/usr/local/bin/lab-unit";
        if kind == "forking" {
            let how = if self.sandbox == "same-session" { "forking-same-session" } else { "forking" };
            // Directly in /run where root may write there.
            let pid_file = match self.sandbox {
                "none" | "delegate" => format!("/run/{name}.pid"),
                _ => format!("/run/{name}/pid"),
            };
            text += &format!("ExecStart={program} {how} {pid_file}\nPIDFile={pid_file}\nRuntimeDirectory={name}\n");
        } else {
            text += &format!("ExecStart={program} {kind}\n");
        }
        text + &match self.sandbox {
            "hardened" => HARDENED.to_owned(),
            "dynamic" => format!("DynamicUser=yes\nStateDirectory={name}\nRuntimeDirectory={name}\n"),
            "users" | "not-restarted" => "PrivateUsers=yes\nUser=lab-unit\n".into(),
            "network" => format!("PrivateNetwork=yes\nStandardOutput=append:/var/log/{name}\nStandardError=inherit\n"),
            "journal-network" => "PrivateNetwork=yes\n".into(),
            "filter" => "SystemCallFilter=@system-service\n".into(),
            "delegate" => "Delegate=yes\n".into(),
            "template" => "Environment=INSTANCE=%i\n".into(),
            // Units that would never have their turn: theirs is behind one that is handed over together with them.
            "behind" if kind == "simple" => "[Unit]\nAfter=lab-between.service\n".into(),
            "behind" => "DynamicUser=yes\n[Unit]\nAfter=lab-simple-none.service\n".into(),
            "bound" => "[Unit]\nBindsTo=lab-simple-none.service\nAfter=lab-simple-none.service\n".into(),
            "bus-name" => "BusName=org.example.lab\n".into(),
            "commands" => format!(
                "StateDirectory={name}\nExecCondition=/usr/bin/test -x {program}\n\
                 ExecStartPre=/bin/sh -c 'echo pre >>/var/lib/{name}/ran'\n\
                 ExecStartPost=/bin/sh -c 'echo post >>/var/lib/{name}/ran'\n"
            ),
            _ => String::new(),
        }
    }
}

fn run(ctx: &mut Ctx) -> Result<()> {
    start(ctx)?;
    check(ctx)?;
    let out: Vec<_> = TABLE.iter().filter(|row| !row.id.is_empty()).map(Row::unit).collect();
    ctx.vm.ssh(&format!("kup release {}", out.join(" ")))?;
    let rows: Vec<&Row> = TABLE.iter().filter(|row| row.id.is_empty()).collect();
    let units: Vec<String> = rows.iter().map(|row| row.unit()).collect();
    let before = observe(ctx, &units)?;
    let record = guest::update(ctx, "")?;
    guest::expect_done(&record, &units.iter().map(String::as_str).collect::<Vec<_>>())?;
    expect_no_leftovers(ctx)?;
    ctx.step("comparing with before");
    let after = observe(ctx, &units)?;
    let wrong: Vec<_> = units.iter().filter_map(|unit| before[unit].differs(&after[unit], unit).err()).collect();
    ensure!(wrong.is_empty(), "{}", wrong.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("\n"));
    ctx.step("reload, and restart: they are ordinary services");
    let reloadable: Vec<_> = rows.iter().filter(|row| row.kind == "notify-reload").map(|row| row.unit()).collect();
    ctx.vm.ssh(&format!("systemctl reload {}", reloadable.join(" ")))?;
    ctx.vm.ssh(&format!("systemctl restart {}", units.join(" ")))?;
    let anew = observe(ctx, &units)?;
    for unit in &units {
        ensure!(anew[unit].proof.name != after[unit].proof.name, "{unit} was not restarted");
    }
    Ok(())
}

/// Installs and starts all units.
fn start(ctx: &mut Ctx) -> Result<()> {
    ctx.step(&format!("starting {} units", TABLE.len()));
    ctx.vm.ssh(&format!("kup release {}; useradd --system lab-unit", UNITS.join(" ")))?;
    ctx.vm.put_bytes(PROGRAM.as_bytes(), "/usr/local/bin/lab-unit")?;
    for row in TABLE {
        ctx.vm.put_bytes(row.text().as_bytes(), &row.file())?;
    }
    // All but one have their mark from their author.
    let (late, all): (Vec<&Row>, Vec<&Row>) = TABLE.iter().partition(|row| row.sandbox == "not-restarted");
    let names = |rows: &[&Row]| rows.iter().map(|row| row.unit()).collect::<Vec<_>>().join(" ");
    ctx.vm.put_bytes(BETWEEN.as_bytes(), "/etc/systemd/system/lab-between.service")?;
    ctx.vm
        .ssh("chmod 755 /usr/local/bin/lab-unit && systemctl daemon-reload && systemctl enable lab-between.service")?;
    ctx.vm.ssh(&format!("systemctl start {}", names(&late)))?;
    ctx.vm.ssh(&format!("kup preserve {}", names(&late)))?;
    ctx.vm.ssh(&format!("systemctl start {}", names(&all)))?;
    let hardened: Vec<_> = TABLE.iter().filter(|row| row.sandbox == "hardened").map(Row::unit).collect();
    ctx.vm.ssh(&format!("systemd-analyze security --no-pager --threshold=20 {}", hardened.join(" "))).map(drop)
}

/// Every unit has the blocker that the table says, or none.
fn check(ctx: &mut Ctx) -> Result<()> {
    ctx.step("kup check");
    let answer = ctx.vm.try_ssh("kup check --json", Duration::from_secs(180))?;
    ensure!(answer.code == 3, "kup check ended with {}: {}", answer.code, answer.stderr);
    let check: Value = serde_json::from_str(&answer.stdout)?;
    let findings = check["findings"].as_array().context("no findings")?;
    let blockers = |unit: &str| {
        let of_unit = findings.iter().filter(|f| f["unit"] == unit && f["severity"] == "blocker");
        of_unit.map(|f| (f["id"].as_str().unwrap_or_default(), f["message"].to_string())).collect::<Vec<_>>()
    };
    let mut wrong = Vec::new();
    for row in TABLE {
        let found = blockers(&row.unit());
        let ids: Vec<&str> = found.iter().map(|(id, _)| *id).collect();
        if ids != row.id.split_whitespace().collect::<Vec<_>>() {
            wrong.push(format!("{}: expected {:?}, found {found:?}", row.unit(), row.id));
        }
    }
    for row in TABLE.iter().filter(|row| row.id.is_empty()) {
        let at_once = findings.iter().any(|f| f["unit"] == row.unit() && f["id"] == "memory.at-once");
        if at_once != (row.sandbox == "hardened") {
            wrong.push(format!("{}: memory.at-once is {at_once}", row.unit()));
        }
    }
    ensure!(wrong.is_empty(), "{} findings are wrong:\n{}", wrong.len(), wrong.join("\n"));
    ensure!(blockers("").is_empty(), "the machine has blockers: {:?}", blockers(""));
    Ok(())
}

/// A unit as it is seen at one moment.
#[derive(Debug)]
struct Seen {
    service: Service,
    /// Users, groups, capabilities and filters of its main process.
    confinement: String,
    /// Which commands of the unit have been run, where it has any.
    ran: String,
    proof: Proof,
}

/// What [`PROGRAM`] says.
#[derive(Debug)]
struct Proof {
    name: String,
    sum: String,
    count: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    clock: u64,
}

impl Seen {
    fn differs(&self, after: &Self, unit: &str) -> Result<()> {
        let (was, is) = (&self.service, &after.service);
        ensure!(was == is && is.restarts == 0 && is.active == "active", "{unit} was {was:?} and is {is:?}");
        let (was, is) = (&self.confinement, &after.confinement);
        ensure!(was == is, "{unit} was confined as\n{was}\nand is confined as\n{is}");
        ensure!(self.ran == after.ran, "{unit}: its commands were run again: {}", after.ran);
        let (was, is) = (&self.proof, &after.proof);
        let lived = was.name == is.name && was.sum == is.sum && was.count < is.count && was.clock < is.clock;
        ensure!(lived, "{unit} said {was:?} and says {is:?}");
        Ok(())
    }
}

/// One round trip for all: with twenty units on a busy host each would cost a second.
fn observe(ctx: &mut Ctx, units: &[String]) -> Result<BTreeMap<String, Seen>> {
    ctx.vm.ssh(&format!("systemctl kill --kill-whom=main --signal=USR1 {}", units.join(" ")))?;
    let script = format!(
        "journalctl --sync; for unit in {}; do \
           systemctl show -p MainPID,NRestarts,ActiveState $unit; pid=$(systemctl show -P MainPID $unit); \
           grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/$pid/status; \
           echo ran $(cat /var/lib/${{unit%.service}}/ran 2>/dev/null); \
           cat /var/log/${{unit%.service}} 2>/dev/null | grep '^proof ' | tail -n 1; \
           journalctl -b -o cat _SYSTEMD_UNIT=$unit _PID=$pid | grep '^proof ' | tail -n 1; echo end; done",
        units.join(" ")
    );
    ctx.eventually(Duration::from_secs(60), |ctx| {
        let text = ctx.vm.ssh(&script)?;
        let each = units.iter().zip(text.split("end\n"));
        let each = each.map(|(unit, text)| Ok((unit.clone(), seen(text).with_context(|| unit.clone())?)));
        let seen = each.collect::<Result<BTreeMap<_, _>>>()?;
        ensure!(seen.len() == units.len(), "of {} units {} answer", units.len(), seen.len());
        Ok(seen)
    })
}

/// Understands what the script of [`observe`] says of one unit.
fn seen(text: &str) -> Result<Seen> {
    let property = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let line = |start: &str| text.lines().find(|line| line.starts_with(start));
    let number = |name: &str| property(name).and_then(|value| value.parse().ok());
    let service = Service {
        main_pid: number("MainPID").context("no MainPID")?,
        restarts: number("NRestarts").context("no NRestarts")?,
        active: property("ActiveState").unwrap_or_default().to_owned(),
    };
    let confinement: Vec<&str> = text.lines().filter(|line| line.contains(":\t")).collect();
    ensure!(confinement.len() == 10, "/proc/{}/status: {text}", service.main_pid);
    let proof: Vec<&str> = line("proof ").unwrap_or_default().split_whitespace().collect();
    let &[_, name, sum, count, clock] = proof.as_slice() else { bail!("no proof: {text}") };
    let proof = Proof { name: name.into(), sum: sum.into(), count: count.parse()?, clock: clock.parse()? };
    let ran = line("ran").unwrap_or_default().to_owned();
    Ok(Seen { service, confinement: confinement.join("\n"), ran, proof })
}
