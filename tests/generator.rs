//! The generator on golden trees: `tests/generator/NN-name/` holds `root/` (the machine), `expected/` (what the
//! generator writes; absent where that is nothing), `log` (what it says; absent where it is silent) and `soft-reboot`
//! (an empty file, where the case is one). `UPDATE_GOLDEN=1` writes `expected/` and `log` anew: read the diff.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kup::paths::Paths;

#[test]
fn golden_trees() {
    let mut cases: Vec<PathBuf> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 16, "the cases are there");
    let mut failed = Vec::new();
    for case in &cases {
        let out = tempfile::tempdir().unwrap();
        let (got, log) = generate(case, out.path());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            update(case, out.path(), &log);
        }
        let want = tree(&case.join("expected"));
        let want_log = fs::read_to_string(case.join("log")).unwrap_or_default();
        if (&got, &log) != (&want, &want_log) {
            let name = case.file_name().unwrap();
            failed.push(format!("{name:?}: wrote {got:#?}\nand said {log}\nnot {want:#?}\nand {want_log}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// Whatever is started later pulls sysinit.target in, and with it what it wants and what is not active.
#[test]
fn what_sysinit_wants_is_started_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = tree(&root.join("tests/generator"));
    let wanted: BTreeSet<&str> =
        expected.keys().filter_map(|name| Some(name.split_once("/sysinit.target.wants/")?.1)).collect();
    assert!(wanted.len() >= 3, "{wanted:?}");
    for unit in wanted {
        let text = fs::read_to_string(root.join("units").join(unit)).unwrap();
        assert!(text.lines().any(|line| line == "RemainAfterExit=yes"), "{unit} would be started again and again");
    }
}

/// What the generator writes below `out` for a case, and what it says, with paths from the case's root.
fn generate(case: &Path, out: &Path) -> (BTreeMap<String, String>, String) {
    let root = case.join("root");
    let mut log = String::new();
    let mut say = |line: &str| log += &format!("{}\n", line.replace(root.to_str().unwrap(), ""));
    let soft_reboot = case.join("soft-reboot").exists();
    kup::generator::run(&Paths::below(&root), out, soft_reboot, &mut say).unwrap();
    (tree(out), log)
}

/// Every file's text and every link's target below `dir`.
fn tree(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(here) = dirs.pop() {
        for entry in fs::read_dir(&here).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            if let Ok(target) = fs::read_link(&path) {
                found.insert(name, format!("-> {}", target.display()));
            } else if path.is_dir() {
                dirs.push(path);
            } else {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn update(case: &Path, out: &Path, log: &str) {
    let expected = case.join("expected");
    let _ = fs::remove_dir_all(&expected);
    let _ = fs::remove_file(case.join("log"));
    if !tree(out).is_empty() {
        let copied = Command::new("cp").arg("-a").arg(out).arg(&expected).status().unwrap();
        assert!(copied.success());
    }
    if !log.is_empty() {
        fs::write(case.join("log"), log).unwrap();
    }
}

#[test]
fn running_twice_is_running_once() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator/04-restore");
    let out = tempfile::tempdir().unwrap();
    let once = generate(&case, out.path());
    assert_eq!(generate(&case, out.path()), once);
}

#[test]
fn the_program_does_nothing_in_an_initrd_and_wants_its_directories() {
    let out = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_kup-generator");
    let status = Command::new(program).args([out.path(); 3]).env("SYSTEMD_IN_INITRD", "1").status().unwrap();
    assert!(status.success() && tree(out.path()).is_empty());
    let bare = Command::new(program).output().unwrap();
    assert!(!bare.status.success() && !bare.stderr.is_empty());
}
