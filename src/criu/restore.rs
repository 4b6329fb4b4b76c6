//! Bringing one unit's process tree back.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::dump::common;
use super::rpc::{Action, InheritFd, Options};
use super::swrk::{Answer, Error, Swrk};
use super::{RESTORE_LOG, explain};
use crate::sys::spawn::Place;

/// One restore.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The CRIU to use.
    pub criu: &'a Path,
    /// Where the images are.
    pub images: &'a Path,
    /// Where the tasks are to be born: the unit's cgroup, without our groups, in the placeholder's namespaces.
    pub place: Place,
    /// CRIU's key of a dumped file, and what stands for it now.
    pub files: Vec<(String, OwnedFd)>,
    /// Inodes of dumped stream sockets, and what stands for each now.
    pub streams: Vec<(u64, OwnedFd)>,
    /// Whether a pager ([`crate::pager`]) listens beside the images and brings the memory that can wait.
    pub lazy: bool,
}

impl Restore<'_> {
    /// Restores the tree and returns its root's PID. `resume` is asked, with CRIU's own PID, when all tasks are there and
    /// none has run yet; the images are used up when it returns `true`. Where it returns `false`, the caller kills the tasks before it
    /// returns: CRIU resumes whatever is then still alive.
    ///
    /// # Errors
    /// CRIU's reason; no task is left then.
    pub fn run(mut self, mut resume: impl FnMut(i32) -> bool) -> Result<i32, Error> {
        let images = File::open(self.images)?;
        let log = self.images.join(RESTORE_LOG);
        let mut options = Options {
            images_dir_fd: images.as_raw_fd(),
            work_dir_fd: Some(images.as_raw_fd()),
            log_file: Some(RESTORE_LOG.into()),
            lazy_pages: self.lazy.then_some(true),
            ..common()
        };
        for (key, fd) in self.files {
            options.external.push(format!("file[{key}]"));
            options.inherit_fd.push(InheritFd { key: format!("file[{key}]"), fd: self.place.give(fd)? });
        }
        for (inode, fd) in self.streams {
            options.external.push(format!("unix[{inode}]"));
            options.inherit_fd.push(InheritFd { key: format!("socket:[{inode}]"), fd: self.place.give(fd)? });
        }
        // Memory that the pager is to bring must not be there before: where CRIU reads a page of its own into a mapping, a huge
        // page would make all around it zeros. CRIU sees to that itself only for images with parents (maybe_disable_thp() in
        // criu/mem.c), and ours have none. It gives each task its own setting in the end.
        let place = if self.lazy { self.place.without_huge_pages() } else { self.place };
        let mut criu = Swrk::start(self.criu, place)?;
        let pid = criu.pid();
        let on_notify = |script: &str| match script {
            "pre-resume" => Answer { refuse: !resume(pid), ..Answer::default() },
            _ => Answer::default(),
        };
        let response = criu.run(Action::Restore, options, on_notify);
        let response = response.map_err(|e| explain(e, &log))?;
        response.restore.map(|r| r.pid).ok_or_else(|| Error::Died("it restored nothing".into()))
    }
}
