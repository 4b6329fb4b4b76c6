//! Checkpointing one unit's process tree.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::rpc::{Action, LockMethod, Options, PageServerInfo};
use super::swrk::{Answer, Error, Swrk};
use super::{DUMP_LOG, explain};
use crate::sys::spawn::Place;

/// One dump.
#[derive(Debug)]
pub struct Dump<'a> {
    /// The CRIU to use.
    pub criu: &'a Path,
    /// Where the images go; exists, root-only.
    pub images: &'a Path,
    /// Root of the tree.
    pub main_pid: i32,
    /// Kinds of namespaces that the tree has of its own; CRIU runs inside them and so dumps none of them.
    pub namespaces: &'a [String],
    /// Largest deleted file that goes into the images, bytes.
    pub ghost_limit: u32,
    /// CRIU's end of a [`super::PageServer`], where memory goes; into the images where there is none.
    pub pages: Option<OwnedFd>,
    /// The images of the [`Dump::pre_dump`] before, by a path relative to `images`: memory that has not changed since is
    /// left out. A link to them, `parent`, is in the images then, which [`super::plain::finish`] removes.
    pub parent: Option<&'a str>,
}

/// What CRIU is to leave out, because kup brings it back itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Externals {
    /// Keys `MNTID:INO` (hexadecimal) of files.
    pub files: Vec<String>,
    /// Inodes of the tree's ends of unix stream connections.
    pub streams: Vec<u64>,
}

impl Dump<'_> {
    /// Dumps the tree. `begin` is asked when CRIU is there and has touched nothing yet, `frozen` as soon as all tasks stand
    /// still. `complete` is asked when the images are complete and the tasks still frozen: `true` lets CRIU kill them, `false`
    /// lets them run on.
    ///
    /// # Errors
    /// CRIU's reason. The tasks run on, unless `complete` has said `true`.
    pub fn run(
        mut self,
        begin: impl FnOnce() -> anyhow::Result<()>,
        mut frozen: impl FnMut() -> anyhow::Result<Externals>,
        mut complete: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        let images = File::open(self.images)?;
        let mut place = Place::default().namespaces(self.main_pid, self.namespaces)?;
        let options = self.options(&images, &mut place)?;
        let mut trouble = None;
        let on_notify = |script: &str| match script {
            "query-ext-files" => match frozen() {
                Ok(e) => Answer { refuse: false, external: e.keys() },
                Err(e) => {
                    trouble = Some(format!("{e:#}"));
                    Answer { refuse: true, external: Vec::new() }
                }
            },
            "post-dump" => Answer { refuse: !complete(), external: Vec::new() },
            _ => Answer::default(),
        };
        let criu = Swrk::start(self.criu, place)?;
        begin().map_err(|e| Error::Refused { message: format!("{e:#}"), errno: 0 })?;
        let result = criu.watched(self.main_pid)?.run(Action::Dump, options, on_notify);
        match (result, trouble) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(message)) => Err(Error::Refused { message, errno: 0 }),
            (Err(e), None) => Err(explain(e, &self.images.join(DUMP_LOG))),
        }
    }

    /// Copies the tree's memory while it goes on, which stands still only while CRIU finds out what there is. What changes
    /// from then on is left to the next round. Into `images` goes only what that round needs to know of this one.
    ///
    /// # Errors
    /// CRIU's reason, such as a kernel that cannot tell which pages have changed. The tasks run on.
    pub fn pre_dump(mut self) -> Result<(), Error> {
        let images = File::open(self.images)?;
        let mut place = Place::default().namespaces(self.main_pid, self.namespaces)?;
        let options = Options { track_mem: Some(true), ..self.options(&images, &mut place)? };
        let result = Swrk::start(self.criu, place)?
            .watched(self.main_pid)?
            .run(Action::SinglePreDump, options, |_| Answer::default());
        result.map(drop).map_err(|e| explain(e, &self.images.join(DUMP_LOG)))
    }

    /// The socket is CRIU's alone from here on: the page server sees by its end that CRIU is gone.
    fn options(&mut self, images: &File, place: &mut Place) -> Result<Options, Error> {
        let socket = self.pages.take().map(|fd| place.give(fd)).transpose()?;
        Ok(Options {
            page_server: socket.map(|fd| PageServerInfo { fd: Some(fd) }),
            parent_img: self.parent.map(Into::into),
            track_mem: self.parent.map(|_| true),
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: Some(images.as_raw_fd()),
            pid: Some(self.main_pid),
            log_file: Some(DUMP_LOG.into()),
            ghost_limit: Some(self.ghost_limit),
            // Hard links of deleted files that live on elsewhere: CRIU makes a name for them beside the old one.
            link_remap: Some(true),
            ..common()
        })
    }
}

impl Externals {
    fn keys(&self) -> Vec<String> {
        let files = self.files.iter().map(|k| format!("file[{k}]"));
        files.chain(self.streams.iter().map(|i| format!("unix[{i}]"))).collect()
    }
}

/// What dump and restore must agree on.
pub(super) fn common() -> Options {
    Options {
        images_dir_fd: -1,
        log_level: Some(4),
        notify_scripts: Some(true),
        ext_unix_sk: Some(true),
        tcp_established: Some(true),
        file_locks: Some(true),
        // "ignore": tasks are born in the cgroup that CRIU was put in, which systemd made (crun and runc do the same).
        manage_cgroups_mode: Some(0),
        // kup's own lock holds all units' connections at once, from before the first is frozen; CRIU's takes two runs of nft
        // for each, and stays behind when CRIU is killed.
        network_lock: Some(LockMethod::Skip.into()),
        ..Options::default()
    }
}
