//! What the package ships says the same as the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use kup::cli::{Cli, Exit};
use kup::config::Settings;
use kup::paths::Paths;
use kup::update::{Pin, Record, TargetKernel};

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

#[test]
fn manual_and_completion_know_the_command_line() {
    let (manual, completion) = (packaging("man/kup.1"), packaging("completions/kup.bash"));
    let completed: BTreeSet<&str> = completion.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(manual.contains(&format!(".It Cm {name}")), "kup.1 does not describe '{name}'");
        assert!(completed.contains(name), "the completion does not know '{name}'");
        for option in command.get_arguments().filter_map(|a| a.get_long()).filter(|o| !["help", "version"].contains(o))
        {
            assert!(
                manual.contains(&format!("Fl -{option}")) || manual.contains(&format!(", -{option}")),
                "--{option}"
            );
            assert!(completed.contains(format!("--{option}").as_str()), "the completion does not know --{option}");
        }
    }
}

/// A refusal leaves no failed unit behind.
#[test]
fn the_unit_knows_the_exit_code_of_a_refusal() {
    let unit = packaging("../units/kup-update.service");
    assert!(unit.lines().any(|line| line == format!("SuccessExitStatus={}", Exit::Blocked as u8)), "{unit}");
}

/// The record's pins as the removal of the package reads them: bootctl is told what was there before all of them.
#[test]
fn the_removal_puts_back_what_was_there_first() {
    let pin = |entry: &str, before: Option<&str>| {
        let before = before.map(Into::into);
        Some(Pin { loader: "systemd-boot".into(), entry: entry.into(), before })
    };
    let told = |earlier: Option<Pin>, before: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let paths = Paths::below(dir.path());
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "b".into(), target);
        (record.pin, record.earlier_pin) = (pin("old.conf", before), earlier);
        record.save(&paths.record()).unwrap();
        let variable = paths.at("/sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        fs::create_dir_all(variable.parent().unwrap()).unwrap();
        let text: Vec<u8> = "old.conf\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs::write(&variable, [&[7, 0, 0, 0], text.as_slice()].concat()).unwrap();
        let moved = |script: String, top: &&str| script.replace(top, &format!("@{top}"));
        let script = ["/etc/", "/sys/", "/run/", "/var/"].iter().fold(packaging("debian/kup.postrm"), moved);
        let script = script.replace("@/", &format!("{root}/"));
        let script = format!("bootctl() {{ printf '%s|' \"$@\"; }}\n{script}");
        let output = Command::new("sh").args(["-c", &script, "postrm", "remove"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(told(None, Some("mine.conf")), "set-default|mine.conf|");
    assert_eq!(told(None, None), "set-default||");
    assert_eq!(told(pin("old.conf", Some("mine.conf")), Some("old.conf")), "set-default|mine.conf|");
    assert_eq!(told(pin("old.conf", None), Some("old.conf")), "set-default||");
    assert_eq!(told(pin("older.conf", Some("mine.conf")), Some("since.conf")), "set-default|since.conf|");
}

#[test]
fn the_manual_knows_the_bus() {
    let manual = packaging("man/org.kup1.5");
    for file in ["org.kup1.Manager.xml", "org.kup1.Update.xml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus").join(file);
        let xml = fs::read_to_string(path).unwrap();
        for kind in ["method", "property", "signal"] {
            for name in xml.split(&format!("<{kind} name=\"")).skip(1).filter_map(|rest| rest.split('"').next()) {
                let described = [format!("Fn {name}"), format!("Va {name}")].iter().any(|n| manual.contains(n));
                assert!(described, "org.kup1(5) does not describe the {kind} {name}");
            }
        }
    }
}

/// Ids are written as `"room.thing"` where a finding is made.
#[test]
fn the_manual_knows_every_finding() {
    let manual = packaging("man/kup-findings.7");
    let described: BTreeSet<&str> =
        manual.lines().filter_map(|l| l.strip_prefix(".It Sy ")?.split(' ').next()).collect();
    let rooms: BTreeSet<&str> = described.iter().filter_map(|id| id.split('.').next()).collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used = BTreeSet::new();
    for dir in ["preflight", "boot"] {
        ids(&source.join(dir), &rooms, &mut used);
    }
    assert_eq!(described, used.iter().map(String::as_str).collect());
}

/// Gathers the ids in the sources below `dir`, unit tests left out.
fn ids(dir: &Path, rooms: &BTreeSet<&str>, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            ids(&path, rooms, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_id = |s: &&str| {
                let word =
                    |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
                s.split_once('.').is_some_and(|(room, thing)| rooms.contains(room) && word(thing))
            };
            found.extend(text.split('"').filter(is_id).map(str::to_string));
        }
    }
}
