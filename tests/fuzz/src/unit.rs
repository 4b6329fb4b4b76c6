//! Unit files: a fragment and its drop-ins.

use std::path::Path;

use kup::fuzz::{Assignment, unit_file};
use kup::unit::mark::{self, MarkOptions};
use kup::unit::{GENERATED, PreserveSpec, UnitFile, UnitName, adjustments, refusals};

use super::texts;

/// A fragment, then drop-ins, of which the second is called as the generator's own.
pub fn unit(data: &[u8]) {
    texts(data).for_each(is_stable);
    let name: UnitName = "a.service".parse().unwrap();
    let mut files = texts(data);
    let fragment = Path::new("/etc/systemd/system/a.service");
    let Ok(mut unit) = UnitFile::parse(name, fragment, files.next().unwrap_or_default()) else { return };
    for (dropin, text) in ["50-a.conf", GENERATED[0], "60-b.conf"].into_iter().zip(files) {
        unit.drop_in(&Path::new("/etc/systemd/system/a.service.d").join(dropin), text);
    }
    // Each goes through all of them.
    for assignment in texts(data).flat_map(|text| unit_file(text).assignments).take(50) {
        look_up(&unit, &assignment);
    }
    let own = unit.without_generated();
    assert_eq!(own.without_generated(), own);
    if let Ok(spec) = PreserveSpec::of(&unit) {
        assert!(adjustments(&unit, &spec).iter().all(|a| !a.value.contains('\n')));
        refusals(&unit, &spec);
        comes_back(&spec);
    }
}

/// What was read, written again one assignment a line, is read as the same.
fn is_stable(text: &[u8]) {
    let words = |a: &Assignment| [a.section.clone(), a.key.clone(), a.value.clone()];
    let first: Vec<_> = unit_file(text).assignments.iter().map(words).collect();
    // The blank keeps a backslash at the end from going on to the next line.
    let written: String = first.iter().map(|[section, key, value]| format!("[{section}]\n{key}={value} \n")).collect();
    let again = unit_file(written.as_bytes());
    assert_eq!(again.broken, None);
    assert_eq!(again.assignments.iter().map(words).collect::<Vec<_>>(), first);
}

/// Single values and lists agree with each other.
fn look_up(unit: &UnitFile, Assignment { section, key, .. }: &Assignment) {
    let (value, list) = (unit.get(section, key), unit.all(section, key));
    assert_eq!(value.map(|v| v.as_str()), list.last().copied());
    assert!(list.iter().all(|v| !v.is_empty() && !v.contains(['\n', '\r', '\0'])));
    if let Ok(switch) = unit.bool(section, key) {
        assert_eq!(switch.is_some(), value.is_some());
    }
}

/// What a unit's files ask for can be written as a mark, and the mark asks for just that.
fn comes_back(spec: &PreserveSpec) {
    let (health_check, fallback, adjust) = (spec.health_check.clone(), spec.fallback, spec.adjust.clone());
    let options = MarkOptions { health_check, fallback, storage: spec.storage, adjust };
    let name: UnitName = "b.service".parse().unwrap();
    let Ok(text) = mark::render("preserve", &name, true, &options) else { return };
    let mut unit = UnitFile::parse(name, Path::new("/b.service"), b"[Service]\n").unwrap();
    unit.drop_in(Path::new("/b.conf"), text.as_bytes());
    let back = PreserveSpec::of(&unit).unwrap();
    assert_eq!(
        (back.preserve, back.health_check, back.fallback, back.storage),
        (true, options.health_check, options.fallback, options.storage)
    );
    assert_eq!(back.adjust, options.adjust);
}
