//! What the boot loader says, and what the kernel was told.

use std::path::Path;

use kup::fuzz::grubenv;
use kup::fuzz::menu::{self, Entry, Menu};
use kup::kernel::cmdline::{Direction, Ours, extra, make, split, transaction};
use kup::kernel::{PID_MAX, check_release, compare_releases};

/// grub.cfg, then grubenv.
pub fn grub(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (config, env) = text.split_once('\x1e').unwrap_or((text, ""));
    let Ok(menu) = menu::read(config, &grubenv(env)) else { return };
    menu.saves_default();
    if let Some(path) = menu.boots() {
        assert!(path.iter().all(|e| !e.uncertain) && path.last().is_some_and(|e| e.children.is_none()));
    }
    let mut releases = Vec::new();
    collect(&menu.entries, &mut releases);
    for release in releases {
        check_release(&release).unwrap();
        let Some(entry) = menu.entry_of(&release) else { continue };
        // The name that kup pins is one by which GRUB finds just that kernel.
        let pinned = Menu { default: Some(entry.clone()), entries: menu.entries.clone(), ..menu.clone() };
        let booted = pinned.boots().unwrap_or_else(|| panic!("{entry} boots nothing"));
        assert_eq!(booted.last().unwrap().release.as_ref(), Some(&release), "{entry}");
    }
}

fn collect(entries: &[Entry], releases: &mut Vec<String>) {
    for entry in entries {
        releases.extend(entry.release.clone());
        collect(entry.children.as_deref().unwrap_or_default(), releases);
    }
}

/// The running kernel's command line, then `KernelArguments`; both are compared as releases, too.
pub fn cmdline(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let (running, arguments) = text.split_once('\x1e').unwrap_or((text, ""));
    assert_eq!(compare_releases(running, arguments), compare_releases(arguments, running).reverse());
    let Ok(extra) = extra(arguments) else { return };
    let (image, id) = (Path::new("/boot/vmlinuz-6.1"), "5a".parse().unwrap());
    let ours = Ours { direction: Direction::There, id: &id, pid_floor: 70_001, extra: &extra };
    let Ok(line) = make(running, image, &ours) else { return };
    assert_eq!(transaction(&line), Some(id.clone()), "{line}");
    assert_eq!(make(&line, image, &ours).as_ref(), Ok(&line));
    let words = split(&line);
    let place = |word: &str| words.iter().position(|w| *w == word).unwrap_or_else(|| panic!("no {word} in {line}"));
    // GRUB's own word is there where it was.
    if words[0].starts_with("BOOT_IMAGE=") {
        assert!(words[0].trim_end_matches('"').ends_with("vmlinuz-6.1"), "{line}");
    }
    assert!(place(&format!("sysctl.kernel.pid_max={PID_MAX}")) < place("sysctl.kernel.ns_last_pid=70001"));
    extra.iter().for_each(|word| assert!(place(word) < words.len()));
    // What follows "--" is init's.
    let init = |words: &[&str]| -> Vec<String> {
        let words = words.iter().skip_while(|w| **w != "--");
        // But for a quote at the end that may have been closed.
        words.map(|w| w.replace('"', "").trim_ascii_end().into()).collect()
    };
    assert_eq!(init(&words), init(&split(running)));
}
