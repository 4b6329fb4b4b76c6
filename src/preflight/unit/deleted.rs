//! Does it hold files that have lost their names?

use super::{Finding, View};
use crate::inspect::{DeletedFile, Mount};
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let deleted = view.procs.deleted();
    let shown = |files: &[&DeletedFile]| names(files.iter().map(|d| d.path.display().to_string()));
    let mut found = Vec::new();
    let (carried, left): (Vec<&DeletedFile>, Vec<&DeletedFile>) =
        deleted.iter().partition(|d| d.nlink == 0 && !d.directory);
    let (big, small): (Vec<_>, Vec<_>) = carried.into_iter().partition(|d| d.size > view.host.ghost_limit);
    if !big.is_empty() {
        let message = format!("{} is deleted, and larger than what is carried over", shown(&big));
        let mib = big.iter().map(|d| d.size.div_ceil(1 << 20)).max().unwrap_or(0);
        found.push(Finding::blocker("limits.ghost", message).fix(format!("set GhostLimitMiB={mib} in kup.toml")));
    }
    let (code, data): (Vec<_>, Vec<_>) = small.into_iter().partition(|d| d.executable);
    if !code.is_empty() {
        let message =
            format!("it runs code that was replaced on disk ({}), and lives on with the old files", shown(&code));
        let fix = format!("to use the new files at once: {}", view.restart());
        found.push(Finding::note("files.outdated", message).fix(fix));
    }
    if !data.is_empty() {
        let message = format!("it has deleted files open ({}); they are carried over", shown(&data));
        found.push(Finding::note("files.deleted", message));
    }
    let stuck: Vec<_> =
        left.into_iter().filter(|d| mount(view, d).is_some_and(|m| m.read_only || m.is_volatile())).collect();
    if !stuck.is_empty() {
        let message = format!("{} lost its name, and CRIU can write no new one beside it", shown(&stuck));
        found.push(Finding::blocker("files.deleted-link", message).fix(view.restart()));
    }
    found
}

fn mount<'a>(view: &'a View, file: &DeletedFile) -> Option<&'a Mount> {
    view.procs.processes.iter().find_map(|p| p.mounts.get(file.mnt_id)).or_else(|| view.host.mounts.get(file.mnt_id))
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ROOT, RUN, USR, Unit};
    use super::*;
    use crate::inspect::{FdKind, FileId, Mapping};
    use crate::preflight::Severity;

    fn deleted(mnt: i32, nlink: u64, size: u64) -> Unit {
        let mut unit = Unit::new().fd(FdKind::File { path: "/srv/x".into(), deleted: true }, mnt);
        let fd = unit.main().fds.last_mut().unwrap();
        (fd.nlink, fd.size) = (nlink, size);
        unit
    }

    #[test]
    fn files() {
        assert_eq!(deleted(ROOT, 0, 10).ids(ask), ["files.deleted"]);
        assert_eq!(deleted(RUN, 0, 10).ids(ask), ["files.deleted"], "its copy is carried");
        let big = deleted(ROOT, 0, 3 << 20).ask(ask);
        assert_eq!((big[0].id.as_str(), big[0].severity), ("limits.ghost", Severity::Blocker));
        assert!(big[0].fix.contains("GhostLimitMiB=3"));
        assert_eq!(deleted(USR, 1, 10).ids(ask), ["files.deleted-link"]);
        assert!(deleted(ROOT, 1, 10).ids(ask).is_empty());
    }

    #[test]
    fn code() {
        let file = Some(FileId { mnt_id: USR, ino: 5, size: 100, ..FileId::default() });
        let map =
            Mapping { name: "/usr/lib/libc.so.6".into(), deleted: true, executable: true, file, ..Mapping::default() };
        let found = Unit::new().map(map).ask(ask);
        assert_eq!((found[0].id.as_str(), found[0].severity), ("files.outdated", Severity::Note));
        assert!(found[0].message.contains("libc.so.6"));
    }
}
