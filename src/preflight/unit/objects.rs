//! Does it hold devices, or kernel objects that CRIU does not know?

use super::adjust::{has_rings, pending_io_uring};
use super::{Finding, View};
use crate::inspect::{Fd, FdKind, Mapping};
use crate::preflight::names;

/// Kernel objects that CRIU dumps (its files.c); pidfds since 4.1, of processes inside the tree.
const KNOWN: [&str; 7] = ["eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "pidfd"];

pub fn ask(view: &View) -> Vec<Finding> {
    let mut found = Vec::new();
    let devices = view.procs.fds().filter(|(_, f)| is_unknown_device(f)).filter_map(|(_, f)| f.path());
    let mapped = view.procs.mappings().filter(|(_, m)| is_device_mapping(m)).map(|(_, m)| m.name.clone());
    let devices: Vec<_> = devices.map(|p| p.display().to_string()).chain(mapped).collect();
    if !devices.is_empty() {
        let message = format!("it uses {}, whose state is in the device or its driver", names(devices));
        found.push(Finding::blocker("files.device", message));
    }
    if has_rings(view) && !pending_io_uring(view) {
        let fix = format!("kup preserve --adjust no-io-uring {0} && systemctl restart {0}", view.name());
        found.push(Finding::blocker("files.io-uring", "it uses io_uring, which CRIU cannot dump").fix(fix));
    }
    let anonymous: Vec<&str> = view
        .procs
        .fds()
        .filter_map(|(_, f)| match &f.kind {
            FdKind::Anon { name } if !KNOWN.contains(&name.as_str()) && name != "io_uring" => Some(name.as_str()),
            _ => None,
        })
        .collect();
    for (id, what, belongs) in KINDS {
        if anonymous.iter().any(|n| belongs(n)) {
            found.push(Finding::blocker(id, format!("it has {what} open, which CRIU cannot dump")));
        }
    }
    let other: Vec<_> = anonymous.into_iter().filter(|n| !KINDS.iter().any(|(.., belongs)| belongs(n))).collect();
    if !other.is_empty() {
        let message = format!("it holds kernel objects that CRIU does not know: {}", names(other));
        found.push(Finding::blocker("files.unknown", message));
    }
    let watches = |name: &str| view.procs.fds().any(|(_, f)| f.is_anon(name));
    for (name, id) in [("inotify", "files.inotify"), ("fanotify", "files.fanotify")] {
        if watches(name) {
            let message = format!("{name} events that it has not read, and those of the meantime, are lost");
            found.push(Finding::note(id, message));
        }
    }
    found
}

type Kind = (&'static str, &'static str, fn(&str) -> bool);

/// Objects with an id of their own; the names are those of the kernel's anon_inode_getfd() calls.
const KINDS: [Kind; 3] = [
    ("files.bpf", "a BPF program or map", |n| n.starts_with("bpf") || n == "btf"),
    ("files.perf", "a perf event", |n| n == "perf_event"),
    ("files.userfaultfd", "a userfaultfd", |n| n == "userfaultfd"),
];

/// Character devices without state: null, zero, full, random, urandom, kmsg (devices.txt, major 1).
fn is_unknown_device(fd: &Fd) -> bool {
    match fd.kind {
        FdKind::Device { block, major, minor, .. } => block || major != 1 || ![3, 5, 7, 8, 9, 11].contains(&minor),
        _ => false,
    }
}

/// A mapping of something that is no regular file; /dev/zero is anonymous memory by another name.
fn is_device_mapping(m: &Mapping) -> bool {
    let is_regular = |mode: u32| mode & nix::libc::S_IFMT == nix::libc::S_IFREG;
    m.is_file() && m.name != "/dev/zero" && m.file.as_ref().is_some_and(|f| !is_regular(f.mode))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::Unit;
    use super::*;
    use crate::inspect::FileId;
    use nix::libc::{S_IFCHR, S_IFREG};

    fn anon(name: &str) -> Unit {
        Unit::new().fd(FdKind::Anon { name: name.into() }, 1)
    }

    fn device(path: &str, block: bool, major: u64, minor: u64) -> Unit {
        Unit::new().fd(FdKind::Device { path: path.into(), block, major, minor }, 1)
    }

    #[test]
    fn objects() {
        for (name, want) in [
            ("eventpoll", &[][..]),
            ("timerfd", &[]),
            ("inotify", &["files.inotify"]),
            ("io_uring", &["files.io-uring"]),
            ("bpf-map", &["files.bpf"]),
            ("perf_event", &["files.perf"]),
            ("userfaultfd", &["files.userfaultfd"]),
            ("landlock-ruleset", &["files.unknown"]),
            ("secretmem", &["files.unknown"]),
        ] {
            assert_eq!(anon(name).ids(ask), want, "{name}");
        }
        let rings = Unit::new().map(Mapping { name: "anon_inode:[io_uring]".into(), ..Mapping::default() }).ask(ask);
        assert!(rings[0].fix.contains("--adjust no-io-uring a.service"), "{rings:?}");
    }

    #[test]
    fn devices() {
        assert!(device("/dev/null", false, 1, 3).ids(ask).is_empty());
        assert_eq!(device("/dev/nvidia0", false, 195, 0).ids(ask), ["files.device"]);
        assert_eq!(device("/dev/sda", true, 8, 0).ids(ask), ["files.device"]);
        assert_eq!(device("/dev/tty1", false, 4, 1).ids(ask), ["files.device"]);
        let map = |name: &str, mode| {
            let file = Some(FileId { mode, ..FileId::default() });
            Unit::new().map(Mapping { name: name.into(), file, ..Mapping::default() })
        };
        assert_eq!(map("/dev/dri/card0", S_IFCHR).ids(ask), ["files.device"]);
        assert!(map("/dev/zero", S_IFCHR).ids(ask).is_empty());
        assert!(map("/usr/bin/a", S_IFREG | 0o755).ids(ask).is_empty());
    }
}
