//! The `kup` command against a real kupd on a private bus: what it prints, and how it ends.

mod private_bus;

use std::fs;
use std::process::Output;
use std::time::Duration;

use kup::paths::Paths;
use kup::preflight::{Finding, Report};
use kup::request::{CHECK_REPORT, UPDATE_REQUEST, UpdateRequest};
use kup::update::{Event, History, HistoryLine, Phase, Record, State, TargetKernel, UnitRecord, UnitState};
use private_bus::{Bench, DONE, Ending, FAILED};

fn nothing(_: &Paths, unit: &str) -> Ending {
    panic!("{unit} is not to be started");
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn record(id: &str, release: &str) -> Record {
    let target = TargetKernel { release: release.into(), image: "/boot/vmlinuz".into(), initrd: None };
    Record::new(id.parse().unwrap(), "6.12.94".into(), "boot".into(), target)
}

fn unit(state: UnitState) -> UnitRecord {
    serde_json::from_value(serde_json::json!({
        "state": state, "main_pid": 7, "pids": [7], "namespaces": [], "files": [], "streams": [], "carried": [],
        "outdated": ["/usr/lib/libc.so.6"],
    }))
    .unwrap()
}

/// Goes through `events`, with a phase each, slowly enough to be followed.
fn play(paths: &Paths, events: &[Event], reason: Option<&str>) -> Ending {
    let request = fs::read(paths.run_dir().join(UPDATE_REQUEST)).unwrap();
    let request: UpdateRequest = serde_json::from_slice(&request).unwrap();
    let mut record = record(request.id.as_str(), &request.target.unwrap());
    record.stage_only = request.stage_only;
    record.reason = reason.map(String::from);
    for event in events {
        let phase = record.begin(format!("{event:?}"));
        record.save(&paths.record()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        record.end(phase);
        record.advance(*event, &paths.record()).unwrap();
    }
    DONE
}

#[test]
fn marking() {
    let bench = Bench::new(nothing);
    let (code, out, err) = said(&bench.kup(&["preserve", "b", "missing"]));
    assert_eq!(code, Some(1), "one of two is not there");
    assert!(out.starts_with("b is preserved over updates\n  PrivateUsers=no from its next start on"), "{out}");
    assert!(err.starts_with("kup: unit missing.service does not exist"), "{err}");
    let (code, out, _) = said(&bench.kup(&["list"]));
    assert_eq!(code, Some(0));
    assert!(out.starts_with("UNIT       STATE   ADJUSTED         MARKED BY\na.service  active  -  "), "{out}");
    let list = json(&bench.kup(&["list", "--json"]));
    assert_eq!(list["units"][1]["unit"], "b.service");
    assert_eq!(list["units"][1]["adjustments"][0], "PrivateUsers=no");
    let released = bench.kup(&["--json", "release", "b", "a"]);
    assert_eq!(released.status.code(), Some(0));
    assert!(json(&released)[1]["notes"][0].as_str().unwrap().contains("still marks it"), "a is marked in /usr");
    let (_, out, _) = said(&bench.kup(&["list"]));
    assert_eq!(out, "no service is marked; 'kup preserve UNIT' marks one\n");
    private_bus::write(&bench.paths, "/etc/systemd/system/b.service.d/x.conf", "[X-KUP]\nKUPPreserve=perhaps\n");
    let (code, _, err) = said(&bench.kup(&["list"]));
    assert!(code == Some(1) && err.contains("x.conf:2"), "{err}");
}

#[test]
fn checking() {
    let bench = Bench::new(|paths, _| {
        let first = !paths.at("/again").exists();
        let mut report = Report { target: Some("6.12.107".into()), ..Default::default() };
        let findings =
            if first { vec![Finding::blocker("io.uring", "It holds a ring.").fix("Restart it.")] } else { vec![] };
        report.units.insert("a".parse().unwrap(), findings);
        fs::write(paths.at("/again"), "").unwrap();
        fs::write(paths.run_dir().join(CHECK_REPORT), serde_json::to_vec(&report).unwrap()).unwrap();
        DONE
    });
    let (code, out, _) = said(&bench.kup(&["check"]));
    assert_eq!(code, Some(3));
    assert_eq!(
        out,
        "a.service:\n  blocker: It holds a ring. [io.uring]\n    Restart it.\n1 blocker in the way of an update to 6.12.107\n"
    );
    let good = bench.kup(&["check", "a", "--json"]);
    assert_eq!((good.status.code(), json(&good)["target"].as_str()), (Some(0), Some("6.12.107")));
}

#[test]
fn update_to_the_switch() {
    let bench = Bench::new(|paths, _| {
        play(
            paths,
            &[
                Event::Pass,
                Event::Armed,
                Event::Shutdown,
                Event::Committed,
                Event::NewKernel,
                Event::Restored,
                Event::Bless,
            ],
            None,
        )
    });
    let (code, out, _) = said(&bench.kup(&["update", "--yes"]));
    assert_eq!(code, Some(0));
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("update ") && lines[0].ends_with(": 6.12.94 to 6.12.107"), "{out}");
    assert!(lines[1].starts_with("Pass ") && lines[1].ends_with(" ms"), "{out}");
    assert!(lines.contains(&"switching to 6.12.107; this session ends now"), "{out}");
    assert_eq!(lines.last(), Some(&"done"), "the bus lived through it, for once");
}

/// The switch takes the bus away before it takes this process.
#[test]
fn a_bus_that_goes_away_once_armed_is_the_switch() {
    let mut bench = Bench::new(|paths, _| {
        let ending = play(paths, &[Event::Pass, Event::Armed], None);
        std::thread::sleep(Duration::from_secs(60));
        ending
    });
    let mut kup = bench.command(env!("CARGO_BIN_EXE_kup"));
    let mut kup = kup.args(["update", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let armed = || Record::load(&bench.paths.record()).is_ok_and(|r| r.is_some_and(|r| r.state() == State::Armed));
    while !armed() {
        assert!(kup.try_wait().unwrap().is_none(), "kup ended before the update was armed");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    bench.end_bus();
    let (code, out, _) = said(&kup.wait_with_output().unwrap());
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().last(), Some(r#"{"event":"switch","target":"6.12.107"}"#));
}

#[test]
fn update_ends_with_its_own_code() {
    let bench = Bench::new(|paths, _| {
        let target = fs::read_to_string(paths.run_dir().join(UPDATE_REQUEST)).unwrap();
        match target.contains("6.12.107") {
            true => play(paths, &[Event::Pass, Event::Abort], Some("a.service could not be dumped")),
            false => play(paths, &[Event::Refuse], Some("kexec is disabled")),
        }
    });
    let (code, out, _) = said(&bench.kup(&["update", "--target", "6.12.107"]));
    assert_eq!((code, out.lines().last()), (Some(6), Some("aborted: a.service could not be dumped")));
    assert_eq!(bench.kup(&["status"]).status.code(), Some(6));
    let refused = bench.kup(&["update", "--target", "6.12.94", "--json"]);
    assert_eq!(refused.status.code(), Some(3));
    let events: Vec<serde_json::Value> = said(&refused).1.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| events.iter().find(|e| e["event"] == kind).unwrap();
    assert_eq!(of("begin")["target"], "6.12.94");
    assert_eq!(of("phase")["name"], "Refuse");
    assert_eq!(of("end")["state"], "refused");
    assert_eq!(of("end")["reason"], "kexec is disabled");
}

#[test]
fn a_worker_that_cannot_start_is_a_failed_update() {
    let bench = Bench::new(|_, _| FAILED);
    let (code, out, _) = said(&bench.kup(&["update", "--yes"]));
    assert_eq!(code, Some(7));
    assert!(out.contains("failed: kup-update.service failed; 'journalctl -u kup-update.service' says why"), "{out}");
}

#[test]
fn staging_and_giving_up() {
    let bench = Bench::new(|paths, unit| {
        if unit == "kup-abort.service" {
            let mut record = Record::load(&paths.record()).unwrap().unwrap();
            record.advance(Event::Abort, &paths.record()).unwrap();
            return DONE;
        }
        play(paths, &[Event::Pass, Event::Armed], None)
    });
    let (code, out, _) = said(&bench.kup(&["update", "--stage-only"]));
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().last(), Some("armed: 'systemctl kexec' switches to 6.12.107, 'kup abort' gives it up"));
    assert_eq!(bench.kup(&["status"]).status.code(), Some(0));
    let (code, _, err) = said(&bench.kup(&["update"]));
    assert!(code == Some(5) && err.contains("'kup abort' gives it up"), "{err}");
    assert_eq!(bench.kup(&["abort"]).status.code(), Some(0));
    assert_eq!(json(&bench.kup(&["status", "--json"]))["update"]["state"], "aborted");
    assert_eq!(bench.kup(&["abort"]).status.code(), Some(1), "there is nothing to give up");
}

#[test]
fn status_and_history() {
    let bench = Bench::new(nothing);
    let (code, out, _) = said(&bench.kup(&["status"]));
    assert_eq!(code, Some(0));
    assert_eq!(
        out,
        "running kernel: 6.12.94\nstaged kernel:  none\nmode:           manual\nupdate:         none yet\n"
    );
    assert_eq!(said(&bench.kup(&["history"])).1, "no update yet\n");
    let mut record = record("64a", "6.12.107");
    for event in [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed, Event::NewKernel, Event::Restored] {
        record.advance(event, &bench.paths.record()).unwrap();
    }
    record.units.insert("a".parse().unwrap(), unit(UnitState::Resumed));
    record.advance(Event::Bless, &bench.paths.record()).unwrap();
    History::append(&bench.paths.history(), &HistoryLine::from(&record)).unwrap();
    // kupd looks a few times a second.
    std::thread::sleep(Duration::from_millis(500));
    let (code, out, _) = said(&bench.kup(&["status"]));
    assert_eq!(code, Some(0));
    assert!(out.contains("update:         64a from 6.12.94 to 6.12.107, done\n"), "{out}");
    assert!(out.contains("a.service  resumed\n") && out.contains("  /usr/lib/libc.so.6\n"), "{out}");
    let history = json(&bench.kup(&["history", "--json"]));
    assert_eq!((&history[0]["id"], &history[0]["units"]["a.service"]), (&"64a".into(), &"resumed".into()));
    record.units.insert("a".parse().unwrap(), unit(UnitState::Cold { reason: "its image is damaged".into() }));
    record.save(&bench.paths.record()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let (code, out, _) = said(&bench.kup(&["status"]));
    assert_eq!(code, Some(7), "a unit started cold");
    assert!(out.contains("a.service  cold   its image is damaged\n"), "{out}");
}

#[test]
fn plot() {
    let bench = Bench::new(nothing);
    let (code, _, err) = said(&bench.kup(&["plot"]));
    assert!(code == Some(1) && err.contains("there was no update yet"), "{err}");
    let mut ended = record("64a", "6.12.107");
    ended.phases.push(Phase { name: "check".into(), start: 1_000_000, end: 3_000_000 });
    History::append(&bench.paths.history(), &HistoryLine::from(&ended)).unwrap();
    let mut current = record("64b", "6.12.110");
    current.save(&bench.paths.record()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let (code, _, err) = said(&bench.kup(&["plot"]));
    assert!(code == Some(1) && err.contains("update 64b has no phases yet"), "{err}");
    let (code, out, _) = said(&bench.kup(&["plot", "64a"]));
    assert!(code == Some(0) && out.contains("<svg") && out.contains("check (2.0 s)"), "{out}");
    current.begin("check");
    current.save(&bench.paths.record()).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let (code, out, _) = said(&bench.kup(&["plot"]));
    assert!(code == Some(0) && out.contains("kup update 64b") && out.contains("check (under way)"), "{out}");
    let (code, _, err) = said(&bench.kup(&["plot", "64c"]));
    assert!(code == Some(1) && err.contains("there is no update 64c; 'kup history' shows"), "{err}");
    assert_eq!(bench.kup(&["plot", "../x"]).status.code(), Some(2));
    assert_eq!(json(&bench.kup(&["plot", "64a", "--json"]))["phases"][0]["name"], "check");
}

#[test]
fn without_kupd_and_without_sense() {
    let bench = Bench::without_kupd(nothing, "");
    let (code, _, err) = said(&bench.kup(&["list"]));
    assert!(code == Some(1) && err.contains("kupd cannot be started"), "{err}");
    assert_eq!(bench.kup(&["preserve"]).status.code(), Some(2));
    assert_eq!(bench.kup(&["frobnicate"]).status.code(), Some(2));
    let mut nowhere = bench.command(env!("CARGO_BIN_EXE_kup"));
    let output = nowhere.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").arg("list").output().unwrap();
    let (code, _, err) = said(&output);
    assert!(code == Some(1) && err.starts_with("kup: cannot reach the system bus"), "{err}");
    for verb in ["export", "import"] {
        let mut nowhere = bench.command(env!("CARGO_BIN_EXE_kup"));
        nowhere.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent").args([verb, "kup-test-nothing"]);
        let (code, _, err) = said(&nowhere.arg(bench.dir()).output().unwrap());
        assert!(code.is_some_and(|code| [1, 4].contains(&code)) && !err.contains("bus"), "{err}");
    }
}

/// polkit does not answer on this bus.
#[test]
fn other_users_are_told_to_become_root() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: takes root to call as another user");
        return;
    }
    let bench = Bench::new(nothing);
    let copy = bench.dir().join("kup");
    fs::copy(env!("CARGO_BIN_EXE_kup"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| {
        let mut command = bench.command(copy.to_str().unwrap());
        said(&command.args(args).uid(65534).gid(65534).current_dir("/").output().unwrap())
    };
    let (code, _, err) = run(&["preserve", "a"]);
    assert!(code == Some(4) && err.contains("run the command as root"), "{err}");
    assert_eq!(run(&["update", "--yes"]).0, Some(4));
    let (code, _, err) = run(&["export", "a", "/nonexistent"]);
    assert!(code == Some(4) && err.contains("root alone"), "{err}");
    assert_eq!(run(&["list"]).0, Some(0));
    assert_eq!(run(&["status"]).0, Some(0));
}
