//! The merge against systemd itself: random trees, loaded by `systemd --test` and by us. Passes with a word where the
//! machine has no systemd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kup::unit::{UnitError, load};

use super::{Tree, name};

const DIRS: [&str; 5] = [
    "/etc/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];
const PLAIN: [&str; 4] = ["a", "a-b", "a-b-c", "b"];
const TEMPLATES: [&str; 3] = ["t@", "s-t@", "u@"];
const INSTANCES: [&str; 4] = ["t@x", "s-t@x", "s-t@y", "u@x"];
const ASKED: [&str; 9] = ["a", "a-b", "a-b-c", "b", "t@x", "s-t@x", "s-t@y", "u@x", "t@z"];
const DROPIN_DIRS: [&str; 14] = [
    "service",
    "a.service",
    "a-.service",
    "a-b.service",
    "a-b-.service",
    "a-b-c.service",
    "b.service",
    "t@.service",
    "t@x.service",
    "s-.service",
    "s-@x.service",
    "s-t@.service",
    "s-t@x.service",
    "u@.service",
];

/// xorshift: the same trees in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What became of a unit: its file and drop-ins, or why not.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Loaded(PathBuf, Vec<PathBuf>),
    Masked,
    NotFound,
}

fn random_tree(dice: &mut Dice) -> Tree {
    const UNIT: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/true\n";
    let tree = Tree::new();
    for dir in DIRS {
        for unit in PLAIN.iter().chain(&TEMPLATES).chain(&INSTANCES) {
            let path = format!("{dir}/{unit}.service");
            match dice.below(30) {
                0..=5 => drop(tree.file(&path, UNIT)),
                6 => drop(tree.link(&path, "/dev/null")),
                7 => drop(tree.file(&path, "")),
                // Sometimes to a unit that is not there, of the wrong kind, or back again.
                8 => drop(tree.link(&path, &format!("{}.service", PLAIN[dice.below(4)]))),
                9 => drop(tree.link(&path, &format!("{}.service", TEMPLATES[dice.below(3)]))),
                10 => drop(tree.link(&path, &format!("{}.service", INSTANCES[dice.below(4)]))),
                _ => {}
            }
        }
        for unit in DROPIN_DIRS {
            for file in ["1.conf", "2.conf", "3.conf", ".4.conf", "5"] {
                let path = format!("{dir}/{unit}.d/{file}");
                match dice.below(12) {
                    0 | 1 => drop(tree.file(&path, "[Service]\nNice=1\n")),
                    2 if dice.one_in(3) => drop(tree.file(&path, "")),
                    3 if dice.one_in(3) => drop(tree.link(&path, "/dev/null")),
                    _ => {}
                }
            }
        }
    }
    tree
}

fn ours(tree: &Tree, unit: &str) -> Outcome {
    match load(&tree.paths(), &name(unit)) {
        Ok(unit) => Outcome::Loaded(unit.fragment.unwrap(), unit.dropins),
        Err(UnitError::Masked { .. }) => Outcome::Masked,
        Err(UnitError::NotFound { .. } | UnitError::AliasLoop { .. }) => Outcome::NotFound,
        Err(e) => panic!("{e}"),
    }
}

/// What `systemd --test` makes of a unit.
fn systemds(systemd: &Path, tree: &Tree, unit: &str) -> Outcome {
    let root = tree.0.path();
    let wants = format!("[Unit]\nDefaultDependencies=no\nWants={unit}\n");
    tree.file("/etc/systemd/system/all.target", &wants);
    let run = root.join("run-of-test");
    fs::create_dir_all(&run).unwrap();
    for dir in [root, &run] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let path: Vec<String> = DIRS.iter().map(|d| tree.paths().at(d).display().to_string()).collect();
    // It refuses to test as root.
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--clear-groups"]).arg(systemd);
        setpriv
    } else {
        Command::new(systemd)
    };
    command.args(["--test", "--system", "--unit=all.target", "--log-target=console"]);
    let output = command.env("SYSTEMD_UNIT_PATH", path.join(":")).env("XDG_RUNTIME_DIR", &run).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Unit all.target"), "{text}{}", String::from_utf8_lossy(&output.stderr));

    let values = |block: &str, key: &str| -> Vec<PathBuf> {
        block.lines().filter_map(|l| l.trim_start().strip_prefix(key)?.strip_prefix(": ")).map(Into::into).collect()
    };
    let is_it = |block: &&str| {
        let main = block.split_once(":\n").is_some_and(|(name, _)| name == unit);
        main || values(block, "Alias").iter().any(|alias| alias == Path::new(unit))
    };
    let Some(block) = text.split("-> Unit ").find(is_it) else { return Outcome::NotFound };
    match values(block, "Unit Load State")[..] {
        [ref state] if state == Path::new("loaded") => {
            let mut dropins = values(block, "DropIn Path");
            // Masked ones are listed, though nothing is read from them.
            dropins.retain(|d| fs::metadata(d).is_ok_and(|m| m.is_file() && m.len() > 0));
            Outcome::Loaded(values(block, "Fragment Path")[0].clone(), dropins)
        }
        [ref state] if state == Path::new("masked") => Outcome::Masked,
        _ => Outcome::NotFound,
    }
}

/// All paths of a tree, for whoever has to find out why.
fn listing(tree: &Tree) -> String {
    let found = Command::new("find").arg(tree.0.path()).args(["!", "-type", "d", "-printf", "%P %s %l\\n"]).output();
    String::from_utf8_lossy(&found.unwrap().stdout).into_owned()
}

#[test]
fn as_systemd_itself() {
    let programs = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"].map(Path::new);
    let Some(systemd) = programs.into_iter().find(|p| p.exists()) else {
        eprintln!("no systemd on this machine: not compared");
        return;
    };
    let mut dice = Dice(0x6b75_7000_0000_0001);
    let mut loaded = 0;
    for round in 0..20 {
        let tree = random_tree(&mut dice);
        // One at a time: where an alias of one unit is a file of another, systemd's answer depends on which it met first.
        let unit = format!("{}.service", ASKED[dice.below(ASKED.len())]);
        let theirs = systemds(systemd, &tree, &unit);
        let ours = ours(&tree, &unit);
        assert_eq!(ours, theirs, "round {round}, {unit} (left: ours, right: systemd's)\n{}", listing(&tree));
        loaded += usize::from(matches!(ours, Outcome::Loaded(..)));
    }
    assert!(loaded > 5, "the trees are worth comparing: {loaded}");
}
