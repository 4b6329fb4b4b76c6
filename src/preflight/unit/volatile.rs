//! Does it hold files on file systems that a new boot begins without?

use std::path::Path;

use super::{Finding, View};
use crate::inspect::{FdKind, Mount, Process, UnixSocket};
use crate::preflight::names;

pub fn ask(view: &View) -> Vec<Finding> {
    let mut found = Vec::new();
    let lost: Vec<String> = lost(view).collect();
    if !lost.is_empty() {
        let message = format!("{} would be gone after the switch", names(lost));
        let fix = "keep them in RuntimeDirectory= or with PrivateTmp=yes, whose content is carried over, or on disk";
        found.push(Finding::blocker("files.volatile", message).fix(fix));
    }
    let hidden: Vec<_> = view
        .procs
        .fds()
        .filter(|(p, f)| p.mounts.get(f.mnt_id).is_some_and(|m| p.mounts.is_overmounted(m)))
        .filter_map(|(_, f)| f.path())
        .map(|p| p.display().to_string())
        .collect();
    if !hidden.is_empty() {
        let message = format!("{} lie below a mount that was made over them", names(hidden));
        found.push(Finding::blocker("files.overmounted", message));
    }
    let unreachable: Vec<_> = view
        .procs
        .foreign()
        .into_iter()
        .filter(|f| !f.deleted && view.host.mounts.get(f.mnt_id).is_none())
        .map(|f| f.path.display().to_string())
        .collect();
    if !unreachable.is_empty() {
        let message = format!("{} lie on a mount that neither it nor the machine has any more", names(unreachable));
        found.push(Finding::blocker("files.unreachable", message).fix(view.restart()));
    }
    let homeless: Vec<_> = view.procs.unix_sockets().iter().filter_map(|s| homeless(view, s)).collect();
    if !homeless.is_empty() {
        let message = format!("nothing makes the directory of the socket {} at boot", names(homeless));
        let fix = "use RuntimeDirectory=, or tmpfiles.d(5)";
        found.push(Finding::warning("sockets.path", message).fix(fix));
    }
    found
}

/// Open and mapped files, and working directories, that neither the disk nor kup carries over.
fn lost(view: &View) -> impl Iterator<Item = String> {
    let fds = view.procs.fds().filter(|(_, f)| !f.is_deleted() && !matches!(f.kind, FdKind::Device { .. }));
    let fds = fds.filter_map(|(p, f)| Some((p, f.path()?, f.mnt_id, matches!(f.kind, FdKind::Directory { .. }))));
    let maps = view.procs.mappings().filter(|(_, m)| m.is_file() && !m.deleted);
    let maps = maps.filter_map(|(p, m)| Some((p, Path::new(&m.name), m.file.as_ref()?.mnt_id, false)));
    let cwds = view.procs.processes.iter().filter(|p| !p.is_zombie());
    let cwds = cwds.filter_map(|p| Some((p, p.cwd.as_path(), p.mounts.of_path(&p.cwd)?.id, true)));
    fds.chain(maps)
        .chain(cwds)
        .filter(|(p, path, mnt, dir)| is_lost(view, p, path, *mnt, *dir))
        .map(|l| l.1.display().to_string())
}

fn is_lost(view: &View, process: &Process, path: &Path, mnt_id: i32, is_dir: bool) -> bool {
    let Some(mount) = process.mounts.get(mnt_id).or_else(|| view.host.mounts.get(mnt_id)) else {
        return false;
    };
    // /tmp is emptied at boot even where it is on disk (systemd-tmpfiles).
    let volatile = mount.is_volatile() || (path.starts_with("/tmp") && path != Path::new("/tmp"));
    volatile && !is_carried(view, path) && !(is_dir && is_made_at_boot(view, mount, path))
}

/// What kup carries over, or systemd puts there before the unit starts.
fn is_carried(view: &View, path: &Path) -> bool {
    let service = &view.procs.service;
    let below_run = |dir: &str| path.strip_prefix("/run").is_ok_and(|p| p.starts_with(dir));
    service.list("RuntimeDirectory").any(|d| below_run(d) || below_run(&format!("private/{d}")))
        || (service.bool("PrivateTmp") && (path.starts_with("/tmp") || path.starts_with("/var/tmp")))
        || (path == Path::new(service.get("PIDFile")))
        || below_run(&format!("credentials/{}", view.name()))
        || view.procs.posix_shared_memory().contains(path)
}

fn is_made_at_boot(view: &View, mount: &Mount, path: &Path) -> bool {
    path == mount.point || view.host.tmpfiles.contains(path)
}

/// A bound socket on a volatile file system whose directory will not be there: CRIU cannot bind it again.
fn homeless(view: &View, socket: &UnixSocket) -> Option<String> {
    let is_bound = socket.listening || socket.kind == crate::inspect::UnixKind::Datagram;
    let name = socket.name.as_deref().filter(|n| is_bound && n.starts_with('/'))?;
    let dir = Path::new(name).parent()?;
    let mount = view.procs.main()?.mounts.of_path(dir)?;
    let gone = mount.is_volatile() && !is_carried(view, Path::new(name)) && !is_made_at_boot(view, mount, dir);
    gone.then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::made_up::{ROOT, RUN, Unit};
    use super::*;
    use crate::inspect::{FileId, Mapping, UnixKind};

    const LOST: [&str; 1] = ["files.volatile"];

    #[test]
    fn open_files() {
        assert!(Unit::new().file("/var/lib/a", ROOT).ids(ask).is_empty());
        let found = Unit::new().file("/run/a/db", RUN).ask(ask);
        assert!(found[0].id == LOST[0] && found[0].message.contains("/run/a/db"), "{found:?}");
        assert_eq!(Unit::new().file("/run/ab/db", RUN).shows("RuntimeDirectory=a\n").ids(ask), LOST);
        assert!(Unit::new().file("/run/a/db", RUN).shows("RuntimeDirectory=x a\n").ids(ask).is_empty());
        assert!(Unit::new().file("/run/private/a/db", RUN).shows("RuntimeDirectory=a\n").ids(ask).is_empty());
        assert!(Unit::new().file("/run/a.pid", RUN).shows("PIDFile=/run/a.pid\n").ids(ask).is_empty());
        assert!(Unit::new().file("/run/credentials/a.service/k", RUN).ids(ask).is_empty());
        assert_eq!(Unit::new().file("/tmp/x", ROOT).ids(ask), LOST, "on disk, but emptied at boot");
        assert!(Unit::new().file("/tmp/x", 27).shows("PrivateTmp=yes\n").ids(ask).is_empty());
        assert_eq!(Unit::new().file("/x", 99).ids(ask), ["files.unreachable"]);
    }

    #[test]
    fn directories_and_mappings() {
        let dir = |path: &str| FdKind::Directory { path: path.into(), deleted: false };
        assert!(Unit::new().fd(dir("/run"), RUN).ids(ask).is_empty());
        assert_eq!(Unit::new().fd(dir("/run/x"), RUN).ids(ask), LOST);
        let mut unit = Unit::new().fd(dir("/run/x"), RUN);
        unit.host.tmpfiles.insert("/run/x".into());
        assert!(unit.ids(ask).is_empty());
        let mut unit = Unit::new();
        unit.main().cwd = "/run/gone".into();
        assert_eq!(unit.ids(ask), LOST);
        let file = Some(FileId { mnt_id: RUN, ..FileId::default() });
        let map = Mapping { name: "/dev/shm/a".into(), file: file.clone(), ..Mapping::default() };
        assert!(Unit::new().map(map).ids(ask).is_empty());
        let map = Mapping { name: "/run/shm".into(), file, ..Mapping::default() };
        assert_eq!(Unit::new().map(map.clone()).ids(ask), LOST);
        assert!(Unit::new().map(Mapping { name: "/memfd:x".into(), deleted: true, ..map }).ids(ask).is_empty());
    }

    #[test]
    fn sockets_without_a_directory() {
        let bound = |name: &str| {
            let mut unit = Unit::new().unix(UnixKind::Stream, None);
            let socket = unit.procs.unix.get_mut(&1000).unwrap();
            (socket.listening, socket.name, socket.peer) = (true, Some(name.into()), None);
            unit
        };
        assert_eq!(bound("/run/x/sock").ids(ask), ["sockets.path"]);
        assert!(bound("/run/sock").ids(ask).is_empty());
        assert!(bound("@abstract").ids(ask).is_empty());
        assert!(bound("/run/x/sock").shows("RuntimeDirectory=x\n").ids(ask).is_empty());
    }
}
