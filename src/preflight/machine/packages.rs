//! Do other tools restart or reboot behind kup's back?

use std::fs;
use std::process::Command;

use crate::paths::Paths;
use crate::preflight::Finding;

pub fn ask(paths: &Paths) -> Vec<Finding> {
    let mut found = Vec::new();
    if crate::packages::are_changing(paths) {
        let message = "a package manager is at work; the switch would cut it short";
        found.push(Finding::blocker("packages.busy", message).fix("wait until it is done"));
    }
    if paths.at("/usr/bin/unattended-upgrade").exists() && apt_reboots() {
        let message = "unattended-upgrades reboots the machine by itself after a kernel update";
        let fix = "set Unattended-Upgrade::Automatic-Reboot \"false\"; in /etc/apt/apt.conf.d, and Mode=automatic in kup.toml";
        found.push(Finding::warning("reboot.unattended", message).fix(fix));
    }
    if paths.at("/usr/sbin/needrestart").exists() && needrestart_restarts(&needrestart_config(paths)) {
        let message = "needrestart restarts services by itself when a library of theirs is replaced";
        let fix = "set $nrconf{restart} = 'l'; in /etc/needrestart/conf.d, or exclude the marked units there";
        found.push(Finding::warning("restart.needrestart", message).fix(fix));
    }
    found
}

/// apt merges its settings itself.
fn apt_reboots() -> bool {
    let output = Command::new("apt-config").args(["shell", "VALUE", "Unattended-Upgrade::Automatic-Reboot/b"]).output();
    output.is_ok_and(|o| is_true(&String::from_utf8_lossy(&o.stdout)))
}

/// `VALUE='true'`, or nothing where it is not set.
fn is_true(text: &str) -> bool {
    text.trim() == "VALUE='true'"
}

/// All of needrestart's Perl settings, in the order in which it reads them.
fn needrestart_config(paths: &Paths) -> String {
    let mut text = fs::read_to_string(paths.at("/etc/needrestart/needrestart.conf")).unwrap_or_default();
    let entries = fs::read_dir(paths.at("/etc/needrestart/conf.d")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    files.sort();
    for file in files {
        text += "\n";
        text += &fs::read_to_string(file).unwrap_or_default();
    }
    text
}

/// The last `$nrconf{restart} = 'a';` that is no comment counts; without one it asks.
fn needrestart_restarts(text: &str) -> bool {
    let value = |line: &str| {
        let rest = line.trim().strip_prefix("$nrconf{restart}")?.trim_start().strip_prefix('=')?;
        rest.trim().trim_start_matches(['\'', '"']).chars().next()
    };
    text.lines().filter_map(value).next_back() == Some('a')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        assert!(is_true("VALUE='true'\n") && !is_true("VALUE='false'\n") && !is_true(""));
        assert!(needrestart_restarts("#$nrconf{restart} = 'i';\n$nrconf{restart} = 'a';\n"));
        assert!(!needrestart_restarts("$nrconf{restart} = 'a';\n$nrconf{restart}=\"l\";\n"));
        assert!(!needrestart_restarts("#$nrconf{restart} = 'a';\n"));
    }

    #[test]
    fn drop_ins_come_last() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for (file, text) in [
            ("/etc/needrestart/needrestart.conf", "$nrconf{restart} = 'l';"),
            ("/etc/needrestart/conf.d/50-x.conf", "$nrconf{restart} = 'a';"),
            ("/etc/needrestart/conf.d/60-x.conf.bak", "$nrconf{restart} = 'l';"),
            ("/usr/sbin/needrestart", ""),
        ] {
            fs::create_dir_all(paths.at(file).parent().unwrap()).unwrap();
            fs::write(paths.at(file), text).unwrap();
        }
        assert_eq!(ask(&paths)[0].id, "restart.needrestart");
    }
}
