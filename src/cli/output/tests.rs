use super::super::model::UpdateUnit;
use super::*;
use crate::bus::{FindingEntry, UnitEntry};

fn finding(unit: &str, id: &str, severity: &str, message: &str, fix: &str) -> FindingEntry {
    let [unit, id, severity, message, fix] = [unit, id, severity, message, fix].map(String::from);
    FindingEntry { unit, id, severity, message, fix }
}

#[test]
fn durations_and_moments() {
    let cases =
        [(0, "0 ms"), (45_999, "45 ms"), (1_250_000, "1.2 s"), (119_900_000, "119.9 s"), (125_000_000, "2 min 5 s")];
    for (usec, want) in cases {
        assert_eq!(duration(usec), want);
    }
    for (seconds, want) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_399, "2000-02-28 23:59:59 UTC"),
        (951_782_400, "2000-02-29 00:00:00 UTC"),
        (951_868_800, "2000-03-01 00:00:00 UTC"),
        (1_798_761_599, "2026-12-31 23:59:59 UTC"),
        (4_107_542_400, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(moment(seconds * 1_000_000), want);
    }
}

#[test]
fn list_of_units() {
    let entry = |unit: &str, adjustments: &[&str]| UnitEntry {
        unit: unit.into(),
        marked_by: format!("/etc/systemd/system/{unit}.d/50-kup.conf"),
        adjustments: adjustments.iter().map(|a| a.to_string()).collect(),
        active_state: "active".into(),
    };
    let units = vec![entry("nginx.service", &[]), entry("redis-server.service", &["PrivateUsers=no"])];
    let shown = list(&List { units, problems: Vec::new() });
    assert_eq!(
        shown,
        "\
UNIT                  STATE   ADJUSTED         MARKED BY
nginx.service         active  -                /etc/systemd/system/nginx.service.d/50-kup.conf
redis-server.service  active  PrivateUsers=no  /etc/systemd/system/redis-server.service.d/50-kup.conf
"
    );
    let none = list(&List { units: Vec::new(), problems: Vec::new() });
    assert_eq!(none, "no service is marked; 'kup preserve UNIT' marks one\n");
}

#[test]
fn check_with_and_without_blockers() {
    let mut c = Check {
        target: Some("6.12.107".into()),
        units: vec!["a.service".into(), "b.service".into()],
        findings: vec![
            finding("", "kexec.lockdown", "blocker", "The kernel is locked down.", "Turn Secure Boot off."),
            finding("b.service", "files.run", "note", "/run/b is carried over.", ""),
        ],
    };
    assert!(c.is_blocked());
    assert_eq!(
        check(&c),
        "\
this machine:
  blocker: The kernel is locked down. [kexec.lockdown]
    Turn Secure Boot off.
a.service: can be preserved
b.service:
  note: /run/b is carried over. [files.run]
1 blocker in the way of an update to 6.12.107
"
    );
    c.findings.remove(0);
    assert!(!c.is_blocked());
    assert!(check(&c).ends_with("nothing stands in the way of an update to 6.12.107\n"));
    let none = Check { target: None, units: Vec::new(), findings: Vec::new() };
    assert_eq!(check(&none), "no service is marked; 'kup preserve UNIT' marks one\n");
}

fn sample() -> Status {
    let unit = |unit: &str, state: &str, reason: Option<&str>, outdated: &[&str]| UpdateUnit {
        unit: unit.into(),
        state: state.into(),
        reason: reason.map(String::from),
        outdated: outdated.iter().map(|f| f.to_string()).collect(),
    };
    Status {
        version: "0.1.0".into(),
        mode: "manual".into(),
        running_kernel: "6.12.107".into(),
        staged_kernel: None,
        update: Some(Update {
            id: "64a".into(),
            state: "done".into(),
            source: "6.12.94".into(),
            target: "6.12.107".into(),
            units: vec![
                unit("memcached.service", "resumed", None, &["/usr/lib/x86_64-linux-gnu/libc.so.6"]),
                unit("x.service", "cold", Some("its image is damaged"), &[]),
            ],
            phases: vec![
                Phase { name: "check".into(), start_usec: 1, end_usec: Some(1_200_001) },
                Phase { name: "bless".into(), start_usec: 5, end_usec: None },
            ],
            blackout_usec: Some(9_870_000),
            kept_back_bytes: 4 << 20,
            ..Default::default()
        }),
    }
}

#[test]
fn status_of_an_update_that_is_done() {
    assert_eq!(
        status(&sample()),
        "\
running kernel: 6.12.107
staged kernel:  none
mode:           manual
update:         64a from 6.12.94 to 6.12.107, done
blackout:       9.9 s
memory kept back until the next boot: 4 MiB

UNIT               STATE    NOTE
memcached.service  resumed
x.service          cold     its image is damaged

memcached.service runs with files that were replaced on disk; a restart takes the new ones:
  /usr/lib/x86_64-linux-gnu/libc.so.6

PHASE  TOOK
check  1.2 s
bless  -
"
    );
}

#[test]
fn status_of_an_armed_update_says_what_to_do() {
    let mut s = sample();
    s.staged_kernel = Some("6.12.110".into());
    let update = Update { state: "armed".into(), stage_only: true, ..Default::default() };
    s.update = Some(Update { id: "64b".into(), source: "6.12.107".into(), target: "6.12.110".into(), ..update });
    assert_eq!(
        status(&s),
        "\
running kernel: 6.12.107
staged kernel:  6.12.110 ('kup update' switches to it)
mode:           manual
update:         64b from 6.12.107 to 6.12.110, armed
                'systemctl kexec' switches, 'kup abort' gives it up
"
    );
}

#[test]
fn status_as_json_keeps_its_keys() {
    let json: serde_json::Value = serde_json::to_value(sample()).unwrap();
    let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["mode", "running_kernel", "staged_kernel", "update", "version"]);
    let update = &json["update"];
    assert_eq!(
        keys(update),
        [
            "blackout_usec",
            "id",
            "kept_back_bytes",
            "phases",
            "reason",
            "source",
            "stage_only",
            "state",
            "target",
            "units"
        ]
    );
    assert_eq!(keys(&update["units"][0]), ["outdated", "reason", "state", "unit"]);
    assert_eq!(keys(&update["phases"][0]), ["end_usec", "name", "start_usec"]);
}

#[test]
fn history_with_reasons() {
    let line = |id: &str, result: &str, reason: Option<&str>, units: &[(&str, &str)]| HistoryLine {
        id: id.parse().unwrap(),
        result: result.into(),
        reason: reason.map(String::from),
        source: "6.12.94".into(),
        target: "6.12.107".into(),
        units: units.iter().map(|(n, s)| (n.parse().unwrap(), s.to_string())).collect(),
        ended: 1_798_761_599_000_000,
        phases: Vec::new(),
    };
    let lines = [
        line("64a", "aborted", Some("a.service could not be dumped"), &[("a", "running")]),
        line("64b", "done", None, &[("a", "resumed"), ("b", "cold: its image is damaged")]),
    ];
    assert_eq!(
        history(&lines),
        "\
ENDED                    ID   FROM     TO        RESULT   UNITS
2026-12-31 23:59:59 UTC  64a  6.12.94  6.12.107  aborted  1
  a.service could not be dumped
2026-12-31 23:59:59 UTC  64b  6.12.94  6.12.107  done     2 (1 cold)
"
    );
    assert_eq!(history(&[]), "no update yet\n");
}
