//! Checkpointing one unit: what CRIU does, and beside it what CRIU cannot do.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::precopy::{self, Precopied, Where};
use super::{ExternalFile, Round, UnitRecord, UnitState, carry, complete, huge, manifest, oom, timers};
use crate::criu::{Dump, Externals, PageServer, mm, plain};
use crate::inspect::{self, Service, UnitProcs, smaps};
use crate::net::repair;
use crate::store::Foam;
use crate::store::arena::Arena;
use crate::store::ram::Ram;
use crate::sys::{self, freezer::Freezer};
use crate::systemd::{Start, Status, Volatile};
use crate::unit::{Fallback, UnitName};

/// Namespaces that CRIU enters rather than dumps: systemd builds them anew. Not `ipc`, whose SysV objects CRIU has to
/// dump with their namespace, nor `time`, which CRIU itself made at an earlier update.
const ENTERED: [&str; 4] = ["mnt", "uts", "net", "cgroup"];

/// What is known before the unit is frozen.
#[derive(Debug)]
pub struct Plan {
    /// Which unit.
    pub unit: UnitName,
    /// As systemd sees it.
    pub status: Status,
    /// All that systemd says of it.
    pub service: Service,
    /// What has to be carried over.
    pub volatile: Volatile,
    /// When its sandbox may be built in the new boot, where that is known.
    pub start: Option<Start>,
    /// Processes of the new boot have PIDs above it.
    pub pid_floor: u32,
    /// Largest deleted file that CRIU may put into its images, bytes.
    pub ghost_limit: u32,
    /// What it falls back on.
    pub fallback: Fallback,
    /// What stays in RAM over the switch, where its memory is to.
    pub arena: Option<Arc<Arena>>,
}

impl Plan {
    /// Stores the unit's memory in advance, while it runs; see [`precopy`].
    ///
    /// # Errors
    /// When it is not there, or `images` cannot be written to.
    pub fn precopy(&self, criu: &Path, images: &Path) -> Result<Precopied> {
        let place = Where { images, arena: self.arena.clone(), copied: self.fallback == Fallback::Disk };
        if self.look_at_processes()?.stored_at_once().is_some() {
            return precopy::none(&place);
        }
        let namespaces = entered(self.status.main_pid)?;
        precopy::run(&self.dump(criu, images, &namespaces), &place)
    }

    fn dump<'a>(&self, criu: &'a Path, images: &'a Path, namespaces: &'a [String]) -> Dump<'a> {
        let (main_pid, ghost_limit) = (self.status.main_pid, self.ghost_limit);
        Dump { criu, images, main_pid, namespaces, ghost_limit, pages: None, parent: None }
    }

    /// Dumps the unit into `images`, which exists, and what of its memory is not `stored` yet. `begin` is asked while it still
    /// runs, `frozen` is called when it stands still and CRIU has not looked at it yet; `complete` gets what the new boot has to
    /// know, and is asked as in [`Dump::run`].
    ///
    /// # Errors
    /// The reason; the unit goes on.
    pub fn run(
        &self,
        criu: &Path,
        images: &Path,
        stored: Precopied,
        begin: impl FnOnce() -> Result<()>,
        frozen: impl Fn(&UnitProcs) -> Result<()>,
        mut complete: impl FnMut(UnitRecord) -> bool,
    ) -> Result<()> {
        ensure!(self.status.main_pid > 0, "it has no main process (it is {})", self.status.active);
        let namespaces = entered(self.status.main_pid)?;
        let Precopied { foam, ram, parent, rounds } = stored;
        let (server, socket) = PageServer::start(foam)?;
        let dump = self.dump(criu, images, &namespaces);
        let dump = Dump { pages: Some(socket), parent: parent.as_deref(), ..dump };
        // Asked before CRIU traces it: only one can.
        let mdwe = sys::mdwe::get(self.status.main_pid).context("cannot ask whether it denies write-and-execute")?;
        let (record, server) = (RefCell::new(None), Cell::new(Some(server)));
        let stands_still = Cell::new(Instant::now());
        let mut trouble = None;
        let begun = Cell::new(false);
        let result = dump.run(
            || begin().inspect(|()| begun.set(true)),
            || {
                stands_still.set(Instant::now());
                let procs = self.look_at_processes()?;
                frozen(&procs)?;
                let found = UnitRecord { mdwe, ..self.look(&procs, &namespaces, images)? };
                let externals = Externals {
                    files: found.files.iter().map(|f| f.key.clone()).collect(),
                    streams: found.streams.clone(),
                };
                *record.borrow_mut() = Some((found, procs));
                Ok(externals)
            },
            || {
                let (Some((mut found, procs)), Some(server)) = (record.borrow_mut().take(), server.take()) else {
                    return false;
                };
                let stored = server.finish().map_err(Into::into);
                let bytes = stored.as_ref().map_or(0, Foam::written);
                match stored.and_then(|foam| self.finish(&mut found, &procs, foam, ram.as_deref(), images)) {
                    Ok(()) => {
                        found.rounds =
                            rounds.iter().copied().chain([Round::since(stands_still.get(), bytes)]).collect();
                        complete(found)
                    }
                    Err(e) => {
                        trouble = Some(e);
                        false
                    }
                }
            },
        );
        if result.is_err() && begun.get() {
            self.hold();
        }
        // Where memory could not be stored, CRIU only knows that nobody answered.
        let unstored = server.take().and_then(PageServer::give_up);
        match trouble.or(unstored.map(Into::into)) {
            Some(e) => Err(e),
            None => Ok(result?),
        }
    }

    /// Adds to CRIU's image what CRIU does not dump, and seals it. Whatever becomes of CRIU from here on, the tasks stand
    /// still until somebody thaws them.
    fn finish(
        &self,
        found: &mut UnitRecord,
        procs: &UnitProcs,
        foam: Foam,
        ram: Option<&Ram>,
        images: &Path,
    ) -> Result<()> {
        Freezer::of(&self.status.cgroup).freeze().context("its control group cannot be frozen")?;
        for process in procs.processes.iter().filter(|p| !p.is_zombie()) {
            mm::wipe_on_fork(images, process.pid, &smaps::wiped(process.pid)?)?;
        }
        complete::check(procs, &plain::finish(foam, images)?)?;
        if let Some(table) = ram.map(Ram::table) {
            tracing::info!("{}: {} MiB of its memory are in RAM", self.unit, table.bytes() >> 20);
            fs::write(images.join(plain::RAM), table.encode())?;
        }
        precopy::forget(images)?;
        let shared = procs.posix_shared_memory();
        let shared = shared.iter().map(|path| path.to_string_lossy().into_owned());
        let paths = self.volatile.paths().into_iter().chain(shared);
        found.carried = carry::pack(paths, self.status.main_pid, images)?;
        found.manifest = Some(manifest::write(images)?);
        Ok(())
    }

    /// A CRIU that died has let the tasks go, with connections still paused: they are held, before they use one, until the
    /// update is given up. One that is reading from such a connection at this very moment may be told that it broke.
    fn hold(&self) {
        let group = Freezer::of(&self.status.cgroup);
        if let Err(e) = group.freeze() {
            tracing::debug!("{}: {e}", self.unit);
        }
        repair::leave(group.dir());
    }

    /// What its processes are now.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub fn look_at_processes(&self) -> Result<UnitProcs> {
        Ok(inspect::of(self.service.clone())?)
    }

    /// Looks at the frozen unit.
    fn look(&self, procs: &UnitProcs, namespaces: &[String], images: &Path) -> Result<UnitRecord> {
        let ids = procs.processes.iter().flat_map(|p| p.threads.iter().chain([&p.pid, &p.sid, &p.pgid]));
        if let Some(high) = ids.copied().find(|id| *id > self.pid_floor as i32) {
            bail!("its process {high} began after the update was armed; try the update again");
        }
        let files = self.external_files(procs, images)?;
        huge::note(procs, images);
        Ok(UnitRecord {
            state: UnitState::Running,
            main_pid: self.status.main_pid,
            cgroup: self.status.cgroup.clone(),
            pids: procs.pids(),
            namespaces: namespaces.to_vec(),
            streams: procs.journal_streams(),
            outdated: outdated(procs),
            files,
            carried: Vec::new(),
            mdwe: false,
            cpus: procs.processes.iter().flat_map(|p| p.cpus.clone()).collect(),
            oom: oom::look(procs),
            timers: timers::expired(procs),
            manifest: None,
            fallback: self.fallback,
            inet: !procs.inet.is_empty() && !namespaces.iter().any(|n| n == "net"),
            start: self.start.clone(),
            rounds: Vec::new(),
        })
    }

    /// Files that CRIU is handed from outside: those that PID 1 opened in the host's mount namespace, and copies of those
    /// that are deleted. CRIU could keep deleted files itself ("ghosts"), but puts them back beside their old names, and
    /// a sandbox forbids to write there.
    fn external_files(&self, procs: &UnitProcs, images: &Path) -> Result<Vec<ExternalFile>> {
        let mut files = Vec::new();
        for d in procs.deleted().into_iter().filter(|d| d.nlink == 0 && !d.directory) {
            let copy = inspect::copies::place(files.len(), &d.path);
            copy_file(&d.content, &images.join(&copy))
                .with_context(|| format!("cannot copy the deleted file {}", d.path.display()))?;
            let flags = d.users.iter().map(|u| u.flags).max_by_key(|f| f & nix::libc::O_ACCMODE);
            let flags = flags.unwrap_or(if d.writable { nix::libc::O_RDWR } else { nix::libc::O_RDONLY });
            files.push(ExternalFile {
                key: d.key(),
                path: d.path.to_string_lossy().into_owned(),
                flags,
                copy: Some(copy.to_string_lossy().into_owned()),
            });
        }
        for f in procs.foreign() {
            if files.iter().any(|known: &ExternalFile| known.key == f.key()) {
                continue;
            }
            let path = f.path.to_string_lossy().into_owned();
            ensure!(!f.deleted, "{path}, which systemd opened for it, was deleted");
            files.push(ExternalFile { key: f.key(), path, flags: f.flags, copy: None });
        }
        Ok(files)
    }
}

/// Names of files that processes still use although they were replaced or removed.
fn outdated(procs: &UnitProcs) -> Vec<String> {
    let mut names: Vec<String> =
        procs.deleted().iter().filter(|d| d.executable).map(|d| d.path.display().to_string()).collect();
    names.sort();
    names.dedup();
    names
}

fn entered(pid: i32) -> Result<Vec<String>> {
    let own = |kind: &&str| -> io::Result<bool> {
        Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))? != fs::read_link(format!("/proc/1/ns/{kind}"))?)
    };
    let mut kinds = Vec::new();
    for kind in ENTERED {
        if own(&kind).context("its main process is gone")? {
            kinds.push(kind.to_string());
        }
    }
    Ok(kinds)
}

/// Copies content, owner and mode: CRIU compares size and mode when it opens the copy for the original.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to)?;
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))
}
