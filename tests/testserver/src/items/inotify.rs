//! An inotify watch on a directory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::Item;

/// The watch.
pub struct Watch {
    directory: PathBuf,
    inotify: Inotify,
    watch: WatchDescriptor,
}

impl Watch {
    pub fn new(state: &Path) -> Result<Self> {
        let directory = state.join("watched");
        fs::create_dir_all(&directory)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watch = inotify.add_watch(&directory, AddWatchFlags::IN_CREATE)?;
        Ok(Self { directory, inotify, watch })
    }

    fn events(&self) -> Result<Vec<(WatchDescriptor, String)>> {
        match self.inotify.read_events() {
            Err(Errno::EAGAIN) => Ok(Vec::new()),
            events => Ok(events?
                .into_iter()
                .map(|e| (e.wd, e.name.unwrap_or_default().to_string_lossy().into_owned()))
                .collect()),
        }
    }
}

impl Item for Watch {
    fn name(&self) -> &'static str {
        "inotify"
    }

    fn check(&mut self) -> Result<()> {
        let early = self.events()?;
        ensure!(early.is_empty(), "it tells of {early:?}, which did not happen");
        let file = self.directory.join("new");
        fs::write(&file, "")?;
        let events = self.events();
        fs::remove_file(&file).with_context(|| format!("{}", file.display()))?;
        let (events, right) = (events?, [(self.watch, "new".to_string())]);
        ensure!(events == right, "it tells of {events:?} instead of {right:?}");
        Ok(())
    }
}
