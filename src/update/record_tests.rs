use super::*;
use crate::systemd::Start;
use crate::unit::Fallback;
use crate::update::Round;

fn record() -> Record {
    let target = TargetKernel { release: "6.12.2".into(), image: "/boot/vmlinuz-6.12.2".into(), initrd: None };
    let mut r = Record::new("5a".parse().unwrap(), "6.12.1".into(), "b".into(), target);
    let unit = UnitRecord {
        state: UnitState::Cold { reason: "its image is damaged".into() },
        main_pid: 7,
        pids: vec![7],
        cgroup: "/system.slice/a.service".into(),
        namespaces: vec!["mnt".into()],
        files: Vec::new(),
        streams: vec![1],
        carried: Vec::new(),
        outdated: Vec::new(),
        mdwe: true,
        cpus: BTreeMap::new(),
        oom: BTreeMap::from([(42, -900)]),
        timers: Vec::new(),
        manifest: Some("5a".into()),
        fallback: Fallback::None,
        inet: true,
        start: Some(Start::Ahead { after: vec!["srv.mount".into()], paths: vec!["/run/user".into()] }),
        rounds: vec![Round { bytes: 4096, usec: 7 }],
    };
    r.units.insert("a".parse().unwrap(), unit);
    r
}

#[test]
fn round_trip_and_mode() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etc/record.json");
    assert!(Record::load(&path).unwrap().is_none());
    record().save(&path).unwrap();
    assert_eq!(Record::load(&path).unwrap().unwrap(), record());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_flipped_bit_is_found_and_the_copy_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record.json");
    record().save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // White space and the digest's own name are the only places where a flip may go unseen: it changes nothing.
        if let Ok(parsed) = Record::parse(&bad, &path) {
            assert_eq!(parsed, record(), "byte {at}");
        }
    }
    for bad in [b"".as_slice(), b"{", &good[..good.len() / 2]] {
        fs::write(&path, bad).unwrap();
        assert_eq!(Record::load(&path).unwrap().unwrap(), record());
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(Record::load(&path).unwrap().unwrap(), record());
    fs::write(copy_of(&path), "{").unwrap();
    fs::write(&path, "{").unwrap();
    assert!(matches!(Record::load(&path), Err(RecordError::Damaged { .. })));
}

#[test]
fn the_switch_ends_where_the_new_kernel_begins() {
    let mut r = record();
    let switch = r.begin("switch");
    let began = r.phases[switch].start + 3;
    r.enter_boot(began);
    assert_eq!(r.phases[switch].end, began);
    assert_eq!((r.phases[1].name.as_str(), r.phases[1].start), ("boot", began));
    // A clock that was put back.
    let mut r = record();
    r.begin("switch");
    r.enter_boot(1);
    assert!(r.phases[0].end >= r.phases[0].start);
}

/// Written by a version that knew a field less.
#[test]
fn an_older_record_is_whole() {
    let path = Path::new("record.json");
    let text = String::from_utf8(record().render().unwrap()).unwrap();
    let older = text.replace("  \"fall_back_boots\": [],\n", "");
    assert!(older.len() < text.len() && Record::parse(older.as_bytes(), path).is_err(), "a line is missing");
    let found = serde_json::from_str::<serde_json::Value>(&text).unwrap()["digest"].as_str().unwrap().to_owned();
    let without = older.replace(&format!("\"{found}\""), "null");
    let older = without.replace("null,\n  \"id\"", &format!("\"{}\",\n  \"id\"", digest(without.as_bytes())));
    assert_eq!(Record::parse(older.as_bytes(), path).unwrap(), record());
}

#[test]
fn a_record_that_the_disk_does_not_give_has_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record.json");
    record().save(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(Record::load(&path).unwrap().unwrap(), record());
    fs::remove_file(copy_of(&path)).unwrap();
    assert!(matches!(Record::load(&path), Err(RecordError::Io { .. })));
}

#[test]
fn damaged_and_foreign_records_are_refused() {
    let path = Path::new("record.json");
    let good = serde_json::to_vec(&record()).unwrap();
    for cut in 0..good.len() {
        assert!(Record::parse(&good[..cut], path).is_err());
    }
    let foreign = String::from_utf8(good).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(matches!(Record::parse(foreign.as_bytes(), path), Err(RecordError::Version { found: 2, .. })));
}

#[test]
fn advance_writes_first_and_refuses_nonsense() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record.json");
    let mut r = record();
    r.advance(Event::Pass, &path).unwrap();
    assert_eq!(Record::load(&path).unwrap().unwrap().state(), State::Arming);
    assert!(matches!(r.advance(Event::Bless, &path), Err(RecordError::Illegal(_))));
    assert_eq!(r.state(), State::Arming);
}
