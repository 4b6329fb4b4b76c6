//! File locks of all three kinds.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;
use nix::unistd::getpid;

use super::Item;
use super::child::Child;

const START: i64 = 10;
const LEN: i64 = 20;

/// Three locked files. The one with the fcntl lock is never opened a second time here: closing it would drop the lock.
pub struct Locks {
    child: Arc<Mutex<Child>>,
    flock: (PathBuf, Flock<File>),
    process: (PathBuf, File),
    description: (PathBuf, File),
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.with_context(|| format!("{}", path.display()))
}

fn range() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: START,
        l_len: LEN,
        l_pid: 0,
    }
}

impl Locks {
    pub fn new(state: &Path, child: Arc<Mutex<Child>>) -> Result<Self> {
        let path = |name| state.join(name);
        let flock = Flock::lock(open(&path("lock.flock"))?, FlockArg::LockExclusiveNonblock);
        let flock = flock.map_err(|(_, e)| e).context("flock")?;
        let (process, description) = (open(&path("lock.fcntl"))?, open(&path("lock.ofd"))?);
        fcntl(&process, FcntlArg::F_SETLK(&range())).context("F_SETLK")?;
        fcntl(&description, FcntlArg::F_OFD_SETLK(&range())).context("F_OFD_SETLK")?;
        Ok(Self {
            child,
            flock: (path("lock.flock"), flock),
            process: (path("lock.fcntl"), process),
            description: (path("lock.ofd"), description),
        })
    }
}

impl Item for Locks {
    fn name(&self) -> &'static str {
        "locks"
    }

    fn check(&mut self) -> Result<()> {
        match Flock::lock(open(&self.flock.0)?, FlockArg::LockExclusiveNonblock) {
            Err((_, Errno::EWOULDBLOCK)) => {}
            Err((_, e)) => bail!("flock: {e}"),
            Ok(_) => bail!("flock: someone else can take the lock"),
        }
        let question = format!("lock {}", self.process.0.display());
        let holder = self.child.lock().unwrap_or_else(PoisonError::into_inner).ask(&question)?;
        let right = format!("{} {START} {LEN}", getpid());
        ensure!(holder == right, "fcntl: the lock is '{holder}' instead of '{right}'");
        let mut found = range();
        fcntl(open(&self.description.0)?, FcntlArg::F_OFD_GETLK(&mut found))?;
        ensure!(found.l_type == libc::F_WRLCK as libc::c_short, "OFD: someone else can take the lock");
        ensure!((found.l_start, found.l_len) == (START, LEN), "OFD: {}+{} is locked", found.l_start, found.l_len);
        // The descriptors that hold the locks must be the ones that may lock again.
        fcntl(&self.process.1, FcntlArg::F_SETLK(&range())).context("fcntl: cannot lock again")?;
        fcntl(&self.description.1, FcntlArg::F_OFD_SETLK(&range())).context("OFD: cannot lock again")?;
        self.flock.1.relock(FlockArg::LockExclusiveNonblock).context("flock: cannot lock again")?;
        Ok(())
    }
}
