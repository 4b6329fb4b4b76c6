//! The kernel's pool of huge pages, which has as many as it is told to have, if there is memory.
//!
//! Several users share it, others than kup among them: each keeps how much it has grown for it, and takes only that away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use crate::paths::Paths;

/// How many huge pages there are, used or not; can be written to.
pub const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// One user of the pool, with a file system for its pages.
#[derive(Debug)]
pub struct Share<'a> {
    paths: &'a Paths,
    user: &'static str,
}

impl<'a> Share<'a> {
    /// That of `user`, a word of its own.
    pub fn of(paths: &'a Paths, user: &'static str) -> Self {
        Self { paths, user }
    }

    /// Where its file system is mounted.
    pub fn dir(&self) -> PathBuf {
        self.paths.run_dir().join(self.user)
    }

    /// Mounts its file system.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn mount(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(&dir)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("kup"), &dir, Some("hugetlbfs"), flags, Some("mode=0700,pagesize=2M"))
            .context("cannot mount a hugetlbfs")
    }

    /// Takes its file system away. What was in it is free in the pool then.
    ///
    /// # Errors
    /// When it cannot be. One that is not mounted is away.
    pub fn unmount(&self) -> Result<()> {
        match nix::mount::umount2(&self.dir(), MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(fs::remove_dir(self.dir())?)
    }

    /// Has the pool grow by `count` pages more; gives by how many it did.
    ///
    /// # Errors
    /// When it cannot be told to.
    pub fn grow(&self, count: u64) -> Result<u64> {
        let pool = self.paths.at(POOL);
        let before = number(&pool)?;
        fs::write(&pool, (before + count).to_string())?;
        let grown = number(&pool)?.saturating_sub(before);
        fs::write(self.grown(), (self.has() + grown).to_string())?;
        Ok(grown)
    }

    /// Has it shrink by up to `count` pages of what it has grown; pages in use stay.
    ///
    /// # Errors
    /// When it cannot be told to.
    pub fn shrink(&self, count: u64) -> Result<()> {
        let (pool, has) = (self.paths.at(POOL), self.has());
        let less = count.min(has);
        if less > 0 {
            fs::write(&pool, number(&pool)?.saturating_sub(less).to_string())?;
        }
        match has - less {
            0 if self.grown().exists() => Ok(fs::remove_file(self.grown())?),
            0 => Ok(()),
            left => Ok(fs::write(self.grown(), left.to_string())?),
        }
    }

    /// By how many pages it has grown.
    fn has(&self) -> u64 {
        number(&self.grown()).unwrap_or(0)
    }

    fn grown(&self) -> PathBuf {
        self.paths.run_dir().join(format!("{}.pool", self.user))
    }
}

fn number(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_away_what_it_brought() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let pool = paths.at(POOL);
        fs::create_dir_all(pool.parent().unwrap()).unwrap();
        fs::create_dir_all(paths.run_dir()).unwrap();
        fs::write(&pool, "7\n").unwrap();
        let (one, two) = (Share::of(&paths, "one"), Share::of(&paths, "two"));
        assert_eq!((one.grow(10).unwrap(), two.grow(5).unwrap(), one.grow(2).unwrap()), (10, 5, 2));
        one.shrink(4).unwrap();
        assert_eq!((number(&pool).unwrap(), one.has()), (20, 8));
        two.shrink(u64::MAX).unwrap();
        one.shrink(u64::MAX).unwrap();
        one.shrink(u64::MAX).unwrap();
        assert_eq!(number(&pool).unwrap(), 7);
        assert_eq!(fs::read_dir(paths.run_dir()).unwrap().count(), 0);
    }
}
