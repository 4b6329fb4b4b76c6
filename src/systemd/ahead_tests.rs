use super::*;

type Condition = (&'static str, bool, bool, &'static str, i32);

fn own<'a>(value: impl Into<Variant<'a>>) -> OwnedVariant {
    OwnedVariant::try_from(value.into()).unwrap()
}

/// A unit as most are: with settings that are empty, or whose effect is there from the beginning.
fn plain() -> (Properties, Properties) {
    let none = Vec::<String>::new;
    let conditions: Vec<Condition> = vec![("ConditionFileIsExecutable", false, false, "/usr/sbin/nginx", 0)];
    let unit = [
        ("BindsTo", own(none())),
        ("After", own(vec!["sysinit.target", "network.target", "-.mount", "system.slice"])),
        ("StopWhenUnneeded", own(false)),
        ("Conditions", own(conditions)),
    ];
    let service = [
        ("DynamicUser", own(false)),
        ("PAMName", own("")),
        ("ReadWritePaths", own(vec!["-/var/lib/redis", "-/run/redis", "-/run/redis/x"])),
        ("InaccessiblePaths", own(vec!["/run/there"])),
        ("BindPaths", own(Vec::<(String, String, bool, u64)>::new())),
        ("RuntimeDirectory", own(vec!["redis"])),
    ];
    let named = |(name, value): (&str, OwnedVariant)| (name.to_owned(), value);
    (unit.into_iter().map(named).collect(), service.into_iter().map(named).collect())
}

fn why(change: impl FnOnce(&mut Properties, &mut Properties)) -> Option<String> {
    let (mut unit, mut service) = plain();
    change(&mut unit, &mut service);
    late(&unit, &service)
}

fn condition(kind: &'static str, word: &'static str) -> Option<String> {
    let conditions: Vec<Condition> = vec![(kind, false, false, word, 0)];
    why(|unit, _| drop(unit.insert("Conditions".into(), own(conditions))))
}

#[test]
fn a_common_unit_starts_ahead() {
    assert_eq!(why(|_, _| ()), None);
    assert_eq!(why(|unit, service| (unit.clear(), service.clear()).1), None, "an old systemd knows less");
    assert_eq!(condition("ConditionArchitecture", "x86-64"), None);
    let ours = "/run/systemd/system/a.service.d/zz-kup-checkpoint.conf";
    assert_eq!(condition("ConditionPathExists", ours), None, "it is gone by then");
}

#[test]
fn what_has_to_wait_for_its_turn() {
    for (interface, name) in LATE {
        let set = why(|unit, service| {
            let properties = if interface == I_UNIT { unit } else { service };
            properties.insert(name.into(), own(vec!["something"]));
        });
        assert_eq!(set, Some(format!("it has {name}=")));
    }
    assert_eq!(why(|_, s| drop(s.insert("DynamicUser".into(), own(true)))).unwrap(), "it has DynamicUser=");
    let kinds =
        [("ConditionPathExists", "/run/x"), ("ConditionPathIsMountPoint", "/usr/x"), ("ConditionACPower", "true")];
    for (kind, word) in kinds {
        assert_eq!(condition(kind, word), Some(format!("its {kind}= may not hold yet")));
    }
}

#[test]
fn paths_that_something_else_makes() {
    let awaited = |name: &str, value: OwnedVariant| {
        let mut service = Properties::new();
        service.insert(name.into(), value);
        volatile(&service)
    };
    assert_eq!(volatile(&plain().1), ["/run/there"]);
    assert_eq!(awaited("ReadWritePaths", own(vec!["-/run/other"])), ["/run/other"]);
    assert_eq!(awaited("NoExecPaths", own(vec!["/tmp/x"])), ["/tmp/x"]);
    assert_eq!(awaited("ReadOnlyPaths", own(vec!["/runner"])), [""; 0]);
    let bind = |from: &'static str| {
        let list: Vec<(&str, &str, bool, u64)> = vec![(from, "/mnt", false, 0)];
        awaited("BindReadOnlyPaths", own(list))
    };
    assert_eq!(bind("/run/other"), ["/run/other"]);
    assert_eq!(bind("/srv/other"), [""; 0]);
    assert_eq!(awaited("ProtectHome", own("yes")), ["/run/user"]);
    assert_eq!(awaited("ProtectHome", own("no")), [""; 0]);
}

#[test]
fn what_systemd_has_forgotten_is_still_waited_for() {
    let ahead = |after: &[&str], paths: &[&str]| {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Start::Ahead { after: list(after), paths: list(paths) }
    };
    let late = || Start::InItsTurn("it has TriggeredBy=".into());
    let (armed, later) = (ahead(&["keys.service", "srv.mount"], &[]), ahead(&["srv.mount"], &["/run/user"]));
    assert_eq!(armed.clone().and(later), ahead(&["keys.service", "srv.mount"], &["/run/user"]));
    assert_eq!(armed.clone().and(late()), late());
    assert_eq!(late().and(armed), late());
}

#[test]
fn what_is_waited_for() {
    let awaited = ["-.mount", "srv.mount", "srv.automount", "postgresql.service", "docker.socket", "dev-sda.device"];
    assert!(awaited.iter().all(|u| is_awaited(u)));
    let not = ["network.target", "system.slice", "systemd-networkd.service", "kup-restore.service", "x.timer"];
    assert!(!not.iter().any(|u| is_awaited(u)));
}

#[test]
fn what_waits_for_what_is_restored() {
    let order = |unit: &str| {
        let before: &[&str] = match unit {
            "db@main.service" => &["db.service", "shutdown.target"],
            "db.service" => &["app.service", "multi-user.target"],
            // Two that are ordered in a circle, which systemd breaks.
            "app.service" => &["db.service", "late.service"],
            "shutdown.target" => panic!("no job is queued for it"),
            _ => &[],
        };
        Ok(before.iter().map(|u| u.to_string()).collect())
    };
    let set = |units: &[&str]| units.iter().map(|u| u.to_string()).collect::<HashSet<_>>();
    let queued = set(&["db@main.service", "db.service", "app.service", "multi-user.target", "other.service"]);
    let held = behind(set(&["db@main.service"]), &queued, order).unwrap();
    assert_eq!(held, set(&["db@main.service", "db.service", "app.service", "multi-user.target"]));
}
