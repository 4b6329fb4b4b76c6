//! What the package ships says the same as the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kup::config::Settings;
use kup::paths::Paths;

fn packaging(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The keys of the settings file, and the file with all of them in force.
fn settings_file() -> (Vec<String>, String) {
    let text = packaging("kup.toml");
    let assignments: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix('#').filter(|l| !l.starts_with(' '))).collect();
    let assignments: Vec<&str> = assignments.into_iter().filter(|l| !l.is_empty()).collect();
    let keys = assignments.iter().map(|l| l.split_once(" = ").unwrap().0.to_string()).collect();
    (keys, assignments.join("\n"))
}

#[test]
fn the_settings_file_shows_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::below(dir.path());
    let file = &paths.config_files()[0];
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, packaging("kup.toml")).unwrap();
    assert_eq!(Settings::load(&paths).unwrap(), Settings::default(), "as it is shipped");
    let (_, all) = settings_file();
    fs::write(file, all).unwrap();
    // The one key whose absence means something that it cannot say.
    let max_image_mib = Some(16384);
    assert_eq!(Settings::load(&paths).unwrap(), Settings { max_image_mib, ..Settings::default() });
}

#[test]
fn the_manual_knows_every_setting() {
    let (keys, _) = settings_file();
    let manual = packaging("man/kup.toml.5");
    let documented: Vec<_> =
        manual.lines().filter_map(|l| l.strip_prefix(".It Va ")?.split_once(" No = ").map(|(k, _)| k)).collect();
    let (keys, documented) = (BTreeSet::from_iter(keys), BTreeSet::from_iter(documented.iter().map(|k| k.to_string())));
    assert_eq!(keys, documented);
    assert_eq!(keys, known_keys());
}

/// The keys that the program takes, as its own message about one that it does not take lists them.
fn known_keys() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::below(dir.path());
    let file = &paths.config_files()[0];
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "Nonsense = 1").unwrap();
    let message = Settings::load(&paths).unwrap_err().to_string();
    let expected = message.split("expected one of ").nth(1).unwrap_or_else(|| panic!("{message}"));
    expected.split('`').skip(1).step_by(2).map(str::to_string).collect()
}
