//! kupd on a private bus: interfaces, errors, authorization, the life of an update as clients see it.

mod private_bus;

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use kup::bus::Error;
use kup::bus::proxy::{ManagerProxy, Options, UpdateProxy};
use kup::kernel::Staged;
use kup::paths::Paths;
use kup::preflight::{Finding, Report};
use kup::request::{CHECK_REPORT, CHECK_REQUEST, CheckRequest, UPDATE_REQUEST, UpdateRequest};
use kup::update::{Event, Record, State, TargetKernel};
use private_bus::{Bench, DONE, FAILED, introspection_file, write};
use zbus::fdo::{IntrospectableProxy, PropertiesProxy};
use zbus::{Connection, Variant};

fn no_worker(_: &Paths, unit: &str) -> private_bus::Ending {
    panic!("{unit} is not to be started");
}

/// The record of the update that was asked for, just begun.
fn begin(paths: &Paths) -> Record {
    let request: UpdateRequest =
        serde_json::from_slice(&fs::read(paths.run_dir().join(UPDATE_REQUEST)).unwrap()).unwrap();
    let release = request.target.unwrap();
    let image = format!("/boot/vmlinuz-{release}").into();
    let target = TargetKernel { release, image, initrd: None };
    let mut record = Record::new(request.id, "6.12.94".into(), "boot".into(), target);
    record.stage_only = request.stage_only;
    record
}

fn err<T: std::fmt::Debug>(result: zbus::Result<T>) -> Error {
    result.unwrap_err().into()
}

/// Waits until `look` gives something.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The update that the manager shows, uncached.
async fn current(conn: &Connection, manager: &ManagerProxy<'_>) -> UpdateProxy<'static> {
    let path = manager.current_update().await.unwrap();
    let builder = UpdateProxy::builder(conn).path(path);
    builder.cache_properties(zbus::proxy::CacheProperties::No).build().await.unwrap()
}

async fn until_state(conn: &Connection, manager: &ManagerProxy<'_>, want: &str) -> UpdateProxy<'static> {
    let update = current(conn, manager).await;
    until(want, async || (update.state().await.unwrap() == want).then_some(())).await;
    update
}

/// `<interface name="…">…</interface>` of an object, as it stands in `dbus/`.
async fn introspect(conn: &Connection, path: &str, interface: &str) -> String {
    let proxy = IntrospectableProxy::builder(conn).destination("org.kup1").path(path);
    let xml = proxy.build().await.unwrap().introspect().await.unwrap();
    let start = xml.find(&format!("<interface name=\"{interface}\">")).unwrap();
    let end = start + xml[start..].find("</interface>").unwrap();
    let header = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
                  \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";
    format!("{header}<node>\n  {}</interface>\n</node>\n", &xml[start..end])
}

/// `KUP_WRITE_XML=1 cargo test` writes the files instead.
#[test]
fn introspection_equals_the_files() {
    let bench = Bench::new(|paths, _| {
        begin(paths).save(&paths.record()).unwrap();
        DONE
    });
    let (conn, manager) = (bench.connect(), bench.manager());
    zbus::block_on(async {
        let update = manager.update(&Options::new()).await.unwrap();
        for (path, interface) in [("/org/kup1", "org.kup1.Manager"), (update.as_str(), "org.kup1.Update")] {
            let live = introspect(&conn, path, interface).await;
            let file = introspection_file(interface);
            if std::env::var_os("KUP_WRITE_XML").is_some() {
                fs::write(&file, &live).unwrap();
            }
            let kept = fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(live, kept, "{} is not what kupd says", file.display());
        }
    });
}

#[test]
fn units_are_marked_and_released() {
    let bench = Bench::new(no_worker);
    let manager = bench.manager();
    zbus::block_on(async {
        let note = manager.preserve("b", &Options::new()).await.unwrap();
        assert!(note.starts_with("PrivateUsers=no from its next start on"), "{note}");
        assert_eq!(bench.orders(), ["reload"]);
        assert_eq!(manager.preserve("a", &Options::new()).await.unwrap(), "", "marked already");
        assert_eq!(bench.orders(), [""; 0]);
        let (units, problems) = manager.list_units().await.unwrap();
        let names: Vec<_> = units.iter().map(|u| u.unit.as_str()).collect();
        assert_eq!((names, problems.len()), (vec!["a.service", "b.service"], 0));
        assert!(units[1].marked_by.ends_with("/etc/systemd/system/b.service.d/50-kup.conf"));
        assert_eq!(units[1].adjustments, ["PrivateUsers=no"]);
        assert_eq!(units[1].active_state, "active");
        assert!(manager.release("b").await.unwrap().contains("next start"));
        assert_eq!(bench.orders(), ["reload"]);
        assert!(matches!(err(manager.release("b").await), Error::NotMarked(_)));
        assert_eq!(manager.list_units().await.unwrap().0.len(), 1);
    });
}

#[test]
fn wrong_arguments_get_named_errors() {
    let bench = Bench::new(no_worker);
    let manager = bench.manager();
    std::os::unix::fs::symlink("/dev/null", bench.paths.at("/usr/lib/systemd/system/masked.service")).unwrap();
    zbus::block_on(async {
        let none = Options::new();
        assert!(matches!(err(manager.preserve("a.socket", &none).await), Error::InvalidArgument(_)));
        assert!(matches!(err(manager.preserve("../a", &none).await), Error::InvalidArgument(_)));
        assert!(matches!(err(manager.preserve("missing", &none).await), Error::NoSuchUnit(m) if m.contains("missing")));
        assert!(matches!(err(manager.preserve("masked", &none).await), Error::Masked(m) if m.contains("unmask")));
        for (key, value) in [
            ("adjust", Variant::from("no-io-uring")),
            ("adjust", Variant::from(vec!["nonsense"])),
            ("stray", Variant::from(true)),
        ] {
            let options = HashMap::from([(key, value)]);
            assert!(matches!(err(manager.preserve("b", &options).await), Error::InvalidArgument(_)), "{key}");
        }
        let target = |t: &'static str| HashMap::from([("target", Variant::from(t))]);
        assert!(matches!(err(manager.update(&target("6.12.107 quiet")).await), Error::InvalidArgument(_)));
        assert!(matches!(err(manager.update(&target("6.99")).await), Error::NoTarget(m) if m.contains("6.12.107")));
        assert!(matches!(err(manager.check(&["a.timer"], &none).await), Error::InvalidArgument(_)));
        let restart = HashMap::from([("allow-restart", Variant::from(vec!["b"]))]);
        assert!(matches!(err(manager.update(&restart).await), Error::NotMarked(m) if m.contains("b.service")));
        assert!(matches!(err(manager.abort().await), Error::InvalidArgument(_)));
        write(&bench.paths, "/etc/systemd/system/b.service.d/x.conf", "[Service]\nKUPPreserve=perhaps\n");
        let e = err(manager.update(&none).await);
        assert!(matches!(&e, Error::BadConfiguration(m) if m.contains("x.conf:2")), "{e}");
        let (units, problems) = manager.list_units().await.unwrap();
        assert_eq!((units.len(), problems.len()), (1, 1), "one bad mark does not hide the others");
        assert_eq!(bench.orders(), [""; 0], "nothing was touched");
    });
}

#[test]
fn hooks_stage_and_unstage() {
    let bench = Bench::new(no_worker);
    let manager = bench.manager();
    zbus::block_on(async {
        assert_eq!(manager.running_kernel().await.unwrap(), "6.12.94");
        assert_eq!(manager.staged_kernel().await.unwrap(), "");
        assert_eq!(manager.mode().await.unwrap(), "manual");
        assert_eq!(manager.version().await.unwrap(), env!("CARGO_PKG_VERSION"));
        assert_eq!(manager.current_update().await.unwrap().as_str(), "/");
        manager.kernel_installed("6.12.107").await.unwrap();
        manager.kernel_installed("6.12.107").await.unwrap();
        assert_eq!(manager.staged_kernel().await.unwrap(), "6.12.107");
        assert!(matches!(err(manager.kernel_installed("6.99").await), Error::NoTarget(_)));
        assert!(matches!(err(manager.kernel_installed("6/9").await), Error::InvalidArgument(_)));
        manager.kernel_removed("6.12.94").await.unwrap();
        assert_eq!(manager.staged_kernel().await.unwrap(), "6.12.107");
        manager.kernel_removed("6.12.107").await.unwrap();
        assert_eq!(Staged::read(&bench.paths).unwrap(), None);
    });
}

#[test]
fn a_removed_kernel_takes_the_armed_update_with_it() {
    for (removed, needed) in [("6.12.94", true), ("6.12.107", true), ("6.12.90", false)] {
        let bench = Bench::new(|paths, unit| {
            let mut record = Record::load(&paths.record()).unwrap().unwrap();
            match unit {
                "kup-abort.service" => record.advance(Event::Abort, &paths.record()).unwrap(),
                other => panic!("{other} is not to be started"),
            }
            DONE
        });
        let target = TargetKernel { release: "6.12.107".into(), image: "/boot/vmlinuz-6.12.107".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "6.12.94".into(), "b".into(), target);
        for event in [Event::Pass, Event::Armed] {
            record.advance(event, &bench.paths.record()).unwrap();
        }
        zbus::block_on(bench.manager().kernel_removed(removed)).unwrap();
        let aborted = bench.orders().contains(&"start kup-abort.service".to_string());
        assert_eq!(aborted, needed, "{removed}");
    }
}

#[test]
fn automatic_mode_starts_its_unit() {
    let bench = Bench::new(|_, _| DONE);
    write(&bench.paths, "/etc/kup/kup.toml", "Mode = \"automatic\"\n");
    let manager = bench.manager();
    zbus::block_on(async {
        manager.kernel_installed("6.12.107").await.unwrap();
        assert_eq!(bench.orders(), ["start kup-automatic.service"]);
        assert_eq!(manager.mode().await.unwrap(), "automatic");
        write(&bench.paths, "/etc/kup/kup.toml", "Mode = \"nonsense\"\n");
        assert!(matches!(err(manager.kernel_installed("6.12.94").await), Error::BadConfiguration(_)));
        assert_eq!(manager.staged_kernel().await.unwrap(), "6.12.94", "it is staged all the same");
    });
}

#[test]
fn check_asks_the_worker() {
    let bench = Bench::new(|paths, unit| {
        assert_eq!(unit, "kup-check.service");
        let request = fs::read(paths.run_dir().join(CHECK_REQUEST)).unwrap();
        let request: CheckRequest = serde_json::from_slice(&request).unwrap();
        if request.target.as_deref() == Some("6.1") {
            return FAILED;
        }
        assert_eq!(request.units, ["a".parse().unwrap(), "b".parse().unwrap()]);
        let mut report = Report { target: Some("6.12.107".into()), ..Default::default() };
        report.machine.push(Finding::warning("machine.x", "Something.").fix("Do it."));
        report.units.insert("a".parse().unwrap(), Vec::new());
        report.units.insert("b".parse().unwrap(), vec![Finding::blocker("b.y", "No.")]);
        fs::write(paths.run_dir().join(CHECK_REPORT), serde_json::to_vec(&report).unwrap()).unwrap();
        DONE
    });
    let manager = bench.manager();
    zbus::block_on(async {
        let (target, units, findings) = manager.check(&["a", "b"], &Options::new()).await.unwrap();
        assert_eq!((target.as_str(), units), ("6.12.107", vec!["a.service".to_string(), "b.service".into()]));
        let flat: Vec<_> =
            findings.iter().map(|f| [&f.unit, &f.id, &f.severity, &f.message, &f.fix].map(String::as_str)).collect();
        assert_eq!(
            flat,
            [["", "machine.x", "warning", "Something.", "Do it."], ["b.service", "b.y", "blocker", "No.", ""]]
        );
        let failing = HashMap::from([("target", Variant::from("6.1"))]);
        let e = err(manager.check(&[], &failing).await);
        assert!(matches!(&e, Error::Failed(m) if m.contains("journalctl -u kup-check.service")), "{e}");
    });
}

#[test]
fn an_update_is_an_object_that_changes() {
    let bench = Bench::new(|paths, unit| {
        assert_eq!(unit, "kup-update.service");
        if paths.record().exists() {
            return DONE;
        }
        std::thread::sleep(Duration::from_millis(600));
        let mut record = begin(paths);
        record.save(&paths.record()).unwrap();
        std::thread::sleep(Duration::from_millis(600));
        record.begin("arm");
        record.advance(Event::Pass, &paths.record()).unwrap();
        std::thread::sleep(Duration::from_millis(600));
        record.reason = Some("not today".into());
        record.advance(Event::Abort, &paths.record()).unwrap();
        std::thread::sleep(Duration::from_millis(600));
        DONE
    });
    let (conn, manager) = (bench.connect(), bench.manager());
    zbus::block_on(async {
        let mut new = manager.receive_update_new().await.unwrap();
        let mut removed = manager.receive_update_removed().await.unwrap();
        let path = manager.update(&HashMap::from([("target", Variant::from("6.12.107"))])).await.unwrap();
        assert_eq!(*kup::bus::next(&mut new).await.unwrap().args().unwrap().update(), path);
        let properties = PropertiesProxy::new(&conn, "org.kup1", &path).await.unwrap();
        let mut changes = properties.receive_properties_changed().await.unwrap();
        let update = until_state(&conn, &manager, "checking").await;
        assert_eq!(update.target().await.unwrap(), "6.12.107");
        assert!(matches!(err(manager.update(&Options::new()).await), Error::Busy(_)), "before there is a record");
        assert!(matches!(err(manager.abort().await), Error::Busy(_)), "nothing is armed yet");
        let change = kup::bus::next(&mut changes).await.unwrap();
        let args = change.args().unwrap();
        let mut names: Vec<_> = args.changed_properties().keys().copied().collect();
        names.sort();
        assert_eq!(names, ["Phases", "State"], "the record begins as what was asked for");
        assert_eq!(update.state().await.unwrap(), "arming");
        assert!(matches!(err(manager.update(&Options::new()).await), Error::Busy(_)), "while there is a record");
        let end = kup::bus::next(&mut removed).await.unwrap();
        let end = end.args().unwrap();
        assert_eq!((end.update(), *end.result()), (&path, "aborted"));
        assert_eq!(update.reason().await.unwrap(), "not today", "the object stays to be read");
        assert_eq!(update.phases().await.unwrap()[0].0, "arm");
        assert!(manager.update(&Options::new()).await.is_ok(), "the worker's own end is waited for");
    });
}

#[test]
fn a_worker_that_fails_early_ends_the_update() {
    let bench = Bench::new(|_, _| FAILED);
    let (conn, manager) = (bench.connect(), bench.manager());
    zbus::block_on(async {
        let first = manager.update(&Options::new()).await.unwrap();
        let update = until_state(&conn, &manager, "failed").await;
        assert!(update.reason().await.unwrap().contains("journalctl -u kup-update.service"));
        let second = manager.update(&Options::new()).await.unwrap();
        assert_ne!(first, second, "another one can begin");
    });
}

#[test]
fn an_armed_update_is_busy_and_can_be_given_up() {
    let bench = Bench::new(|paths, unit| {
        match unit {
            "kup-update.service" => {
                let mut record = begin(paths);
                record.advance(Event::Pass, &paths.record()).unwrap();
                record.advance(Event::Armed, &paths.record()).unwrap();
            }
            "kup-abort.service" => {
                let mut record = Record::load(&paths.record()).unwrap().unwrap();
                record.advance(Event::Abort, &paths.record()).unwrap();
            }
            other => panic!("{other} is not to be started"),
        }
        DONE
    });
    let (conn, manager) = (bench.connect(), bench.manager());
    zbus::block_on(async {
        manager.update(&HashMap::from([("stage-only", Variant::from(true))])).await.unwrap();
        let update = until_state(&conn, &manager, "armed").await;
        assert!(update.stage_only().await.unwrap());
        let e = err(manager.update(&Options::new()).await);
        assert!(matches!(&e, Error::Busy(m) if m.contains("kup abort")), "{e}");
        manager.abort().await.unwrap();
        assert_eq!(update.state().await.unwrap(), State::Aborted.as_str());
        assert_eq!(bench.orders(), ["start kup-update.service", "start kup-abort.service"]);
    });
}

/// The record of an update that went from kernel 6.12.107 to the one that runs.
fn done(paths: &Paths) -> Record {
    let target = TargetKernel { release: "6.12.94".into(), image: "/boot/vmlinuz-6.12.94".into(), initrd: None };
    let mut record = Record::new("5a".parse().unwrap(), "6.12.107".into(), "b".into(), target);
    for event in [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed, Event::NewKernel, Event::Restored] {
        record.advance(event, &paths.record()).unwrap();
    }
    record.advance(Event::Bless, &paths.record()).unwrap();
    record
}

#[test]
fn only_an_update_that_was_done_is_rolled_back() {
    let bench = Bench::new(|_, _| DONE);
    let manager = bench.manager();
    let back = HashMap::from([("rollback", Variant::from(true))]);
    let request = bench.paths.run_dir().join(UPDATE_REQUEST);
    zbus::block_on(async {
        let nothing = |e: Error| assert!(matches!(&e, Error::NoTarget(m) if m.contains("nothing to roll back")), "{e}");
        let wrong = HashMap::from([("rollback", Variant::from("yes"))]);
        assert!(matches!(err(manager.update(&wrong).await), Error::InvalidArgument(m) if m.contains("rollback")));
        nothing(err(manager.update(&back).await));
        let mut given_up = Record::new("59".parse().unwrap(), "6.12.94".into(), "b".into(), done(&bench.paths).target);
        given_up.advance(Event::Abort, &bench.paths.record()).unwrap();
        nothing(err(manager.update(&back).await));
        assert!(!request.exists() && bench.orders().is_empty(), "nothing was asked for");

        let last = done(&bench.paths);
        manager.update(&back).await.unwrap();
        let asked: UpdateRequest = serde_json::from_slice(&fs::read(&request).unwrap()).unwrap();
        assert_eq!((asked.target.as_deref(), asked.reverses), (Some("6.12.107"), Some(last.id)));
        assert!(!asked.stage_only && asked.allow_restart.is_empty());
    });
}

#[test]
fn a_rollback_needs_the_kernel_that_it_goes_back_to() {
    let bench = Bench::new(no_worker);
    done(&bench.paths);
    fs::remove_file(bench.paths.at("/boot/vmlinuz-6.12.107")).unwrap();
    let e = err(zbus::block_on(bench.manager().update(&HashMap::from([("rollback", Variant::from(true))]))));
    assert!(matches!(&e, Error::NoTarget(m) if m.contains("6.12.107")), "{e}");
}

#[test]
fn a_damaged_record_stops_updates() {
    let bench = Bench::new(no_worker);
    write(&bench.paths, "/etc/kup/record.json", "{");
    let manager = bench.manager();
    zbus::block_on(async {
        let e = err(manager.update(&Options::new()).await);
        assert!(matches!(&e, Error::Failed(m) if m.contains("record.json is damaged")), "{e}");
        fs::remove_file(bench.paths.record()).unwrap();
        assert!(matches!(err(manager.update(&HashMap::from([("target", "6.99".into())])).await), Error::NoTarget(_)));
    });
}

/// polkit does not answer on this bus: everybody but root is refused, and everybody may read.
#[test]
fn other_users_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to call as another user");
        return;
    }
    let bench = Bench::new(no_worker);
    let send = |method: &str, args: &[&str]| {
        let mut command = std::process::Command::new("dbus-send");
        command.arg(format!("--bus={}", bench.address)).args(["--print-reply", "--dest=org.kup1", "/org/kup1", method]);
        let output = command.args(args).uid(65534).gid(65534).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (method, args) in [
        ("org.kup1.Manager.Release", vec!["string:a"]),
        ("org.kup1.Manager.Abort", vec![]),
        ("org.kup1.Manager.KernelInstalled", vec!["string:6.12.107"]),
        ("org.kup1.Manager.KernelRemoved", vec!["string:6.12.107"]),
    ] {
        let (done, said) = send(method, &args);
        assert!(!done && said.contains("org.kup1.Error.NotAuthorized"), "{method}: {said}");
    }
    let level = ["string:org.freedesktop.LogControl1", "string:LogLevel", "variant:string:debug"];
    let mut set = std::process::Command::new("dbus-send");
    set.arg(format!("--bus={}", bench.address)).args(["--print-reply", "--dest=org.kup1"]);
    set.args(["/org/freedesktop/LogControl1", "org.freedesktop.DBus.Properties.Set"]).args(level);
    let denied = set.uid(65534).gid(65534).output().unwrap();
    assert!(String::from_utf8_lossy(&denied.stderr).contains("AccessDenied"), "{denied:?}");
    for method in ["org.kup1.Manager.ListUnits", "org.kup1.Manager.History"] {
        assert!(send(method, &[]).0, "{method} is for everybody");
    }
    // dbus-send cannot write a{sv}; busctl can.
    for (method, args) in
        [("Update", vec!["a{sv}", "0"]), ("Preserve", vec!["sa{sv}", "a", "0"]), ("Check", vec!["asa{sv}", "0", "0"])]
    {
        let mut command = std::process::Command::new("busctl");
        command.arg(format!("--address={}", bench.address)).args(["call", "org.kup1", "/org/kup1", "org.kup1.Manager"]);
        let output = command.arg(method).args(args).uid(65534).gid(65534).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("run the command as root"), "{method}: {said}");
    }
}

#[test]
fn the_log_level_can_be_changed() {
    let bench = Bench::new(no_worker);
    let conn = bench.connect();
    zbus::block_on(async {
        let name = || "org.freedesktop.LogControl1".try_into().unwrap();
        let log = PropertiesProxy::new(&conn, "org.kup1", "/org/freedesktop/LogControl1").await.unwrap();
        let get = async |p| String::try_from(log.get(name(), p).await.unwrap()).unwrap();
        assert_eq!((get("LogLevel").await, get("SyslogIdentifier").await), ("info".into(), "kupd".into()));
        log.set(name(), "LogLevel", &"debug".into()).await.unwrap();
        assert_eq!(get("LogLevel").await, "debug");
        assert!(log.set(name(), "LogLevel", &"shouting".into()).await.is_err());
        assert_eq!(get("LogTarget").await, "console");
    });
}

/// kupd leaves after a moment of quiet, again and again, while calls come at all times: none is lost, and each is
/// answered by a kupd that the bus started for it where none was there.
#[test]
fn no_call_is_lost_when_kupd_leaves() {
    let services = tempfile::tempdir().unwrap();
    let service = format!(
        "[D-BUS Service]\nName=org.kup1\nExec={} --root {} --idle 60\n",
        env!("CARGO_BIN_EXE_kupd"),
        services.path().display()
    );
    // The bus does not start services as root by itself (that takes its setuid helper) unless it is a session bus.
    fs::write(services.path().join("org.kup1.service"), service).unwrap();
    let config = format!("<servicedir>{}</servicedir>", services.path().display());
    let bench = Bench::without_kupd(no_worker, &config);
    let conn = bench.connect();
    let manager = bench.manager();
    zbus::block_on(async {
        let bus = zbus::fdo::DBusProxy::new(&conn).await.unwrap();
        let mut owners = std::collections::BTreeSet::new();
        for pause in (0..60).map(|i| Duration::from_millis(i * 7 % 420)) {
            assert_eq!(manager.history().await.unwrap(), [""; 0]);
            if let Ok(owner) = bus.get_name_owner("org.kup1".try_into().unwrap()).await {
                owners.insert(owner.to_string());
            }
            std::thread::sleep(pause);
        }
        assert!(owners.len() > 3, "kupd never left: {owners:?}");
    });
}
