use std::fs;
use std::path::Path;

use super::super::super::model::UpdateUnit;
use super::*;

const S: u64 = 1_000_000;
const START: u64 = 1_798_761_000 * S;

/// Seconds since the update began.
fn phase(name: &str, start: f64, end: f64) -> Phase {
    let at = |seconds: f64| START + (seconds * 1e6) as u64;
    Phase::new(name.into(), at(start), if end > 0.0 { at(end) } else { 0 })
}

fn unit(unit: &str, state: &str, reason: Option<&str>) -> UpdateUnit {
    UpdateUnit { unit: unit.into(), state: state.into(), reason: reason.map(String::from), outdated: Vec::new() }
}

fn sample() -> Update {
    Update {
        id: "64a".into(),
        state: "done".into(),
        source: "6.12.94".into(),
        target: "6.12.107".into(),
        units: vec![
            unit("memcached.service", "resumed", None),
            unit("x.service", "cold", Some("CRIU said <Error (1 & 2): \"can't\">\u{1b}")),
        ],
        phases: vec![
            phase("check", 0.0, 1.2),
            phase("arm", 1.2, 4.0),
            // An administrator who takes his time.
            phase("prepare", 3604.0, 3604.5),
            phase("pre-copy", 3604.5, 3609.0),
            phase("freeze and dump", 3609.0, 3610.0),
            phase("dump memcached.service", 3609.1, 3609.9),
            phase("switch", 3610.0, 3621.0),
            phase("verify", 3621.0, 3621.2),
            phase("restore", 3621.2, 3622.0),
            phase("restore memcached.service", 3621.3, 3621.9),
            phase("unlock", 3622.0, 3622.1),
            phase("assess", 3622.1, 3625.0),
            phase("bless", 3625.0, 0.0),
        ],
        ..Default::default()
    }
}

/// `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn the_picture_is_the_golden_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/plot/golden.svg");
    let drawn = render(&sample());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &drawn).unwrap();
    }
    assert_eq!(drawn, fs::read_to_string(path).unwrap());
}

#[test]
fn every_phase_and_no_markup_of_strangers_is_in_it() {
    let drawn = render(&sample());
    for p in &sample().phases {
        assert!(drawn.contains(&format!("<title>{}: ", p.name)), "{}", p.name);
    }
    assert!(drawn.contains("blackout 13.1 s") && drawn.contains("(60 min 0 s)"), "{drawn}");
    assert!(drawn.contains("bless (cut short)"), "{drawn}");
    assert!(drawn.contains("memcached.service (dump 800 ms, restore 600 ms)"), "{drawn}");
    assert!(
        drawn.contains("x.service cold: CRIU said &lt;Error (1 &amp; 2): &quot;can&#39;t&quot;&gt;\u{fffd}"),
        "{drawn}"
    );
    assert!(!drawn.contains('\u{1b}'));
}

#[test]
fn an_update_that_has_only_begun() {
    let phases = vec![phase("check", 0.0, 0.0)];
    let drawn = render(&Update { state: "checking".into(), phases, ..sample() });
    assert!(drawn.contains("check (under way)") && !drawn.contains("class=\"blackout\" x=\"20.0\""), "{drawn}");
}

#[test]
fn long_reasons_are_broken_into_lines() {
    let reason = "word ".repeat(100);
    let lines = wrapped(&reason);
    assert_eq!(lines.join(" "), reason.trim_end());
    assert!(lines.len() == 4 && lines.iter().all(|line| line.len() <= LINE));
    assert!(wrapped("").is_empty());
}
