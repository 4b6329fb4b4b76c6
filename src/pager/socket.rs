//! CRIU's side of an on-demand restore, `lazy-pages.socket` (criu/uffd.c of CRIU 4.1.1 and 4.2, which do the same).
//!
//! CRIU connects once, from its work directory. For every task in `pstree.img` it sends its PID as four bytes, then one
//! byte with the task's userfaultfd; a zombie's PID is negative and has none. When all tasks stand at their last step
//! before they run, it sends [`FINISHED`].

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::Error;
use crate::criu::{image, pstree};
use crate::sys::fds;
use crate::sys::uffd::Uffd;

/// The name that CRIU connects to.
pub const NAME: &str = "lazy-pages.socket";
/// "RSTF": the tasks are about to run.
const FINISHED: u32 = 0x5253_5446;

/// A task that CRIU restores.
#[derive(Debug)]
pub struct Task {
    /// Its PID, as CRIU knows it.
    pub pid: i32,
    /// Through which its faults are served.
    pub uffd: Uffd,
}

/// Listens in `work_dir`. A socket that an earlier restore left there is replaced.
///
/// # Errors
/// As bind(2).
pub fn listen(work_dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(work_dir)?;
    // The path of a unix socket has no more than 107 bytes; this one is short whatever the directory is called.
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(NAME);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => UnixListener::bind(&path),
    }
}

/// How many tasks the `pstree.img` in `images` lists: so many does CRIU tell of.
///
/// # Errors
/// When it is no such image.
pub fn count_tasks(images: &Path) -> io::Result<usize> {
    let path = images.join(pstree::NAME);
    let image = fs::read(&path)?;
    let tasks = image::bytes(&path, (image.as_slice(), image.len() as u64), pstree::MAGIC);
    tasks.map(|tasks| tasks.len()).map_err(io::Error::other)
}

/// Waits for CRIU and hears of its `count` tasks.
///
/// # Errors
/// [`Error::Protocol`]: it went away before, or says something else.
pub fn accept(listener: &UnixListener, count: usize) -> Result<(OwnedFd, Vec<Task>), Error> {
    let connection = OwnedFd::from(listener.accept()?.0);
    let mut tasks = Vec::new();
    for _ in 0..count {
        let mut pid = [0; 4];
        exactly(&connection, &mut pid)?;
        let pid = i32::from_ne_bytes(pid);
        if pid > 0 {
            tasks.push(Task { pid, uffd: Uffd::from(descriptor(&connection)?) });
        }
    }
    Ok((connection, tasks))
}

/// Whether the tasks are about to run. What CRIU said stays in the connection, so that a restarted pager hears it too.
///
/// # Errors
/// [`Error::Protocol`]: CRIU went away before; the restore has failed.
pub fn finished(connection: &OwnedFd) -> Result<bool, Error> {
    let mut word = [0; 4];
    match recv(connection.as_raw_fd(), &mut word, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(4) if u32::from_ne_bytes(word) == FINISHED => Ok(true),
        Ok(0) => Err(gone()),
        Ok(4) => Err(Error::Protocol(format!("CRIU says {word:x?}"))),
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn gone() -> Error {
    Error::Protocol("CRIU went away before the restore was finished".into())
}

fn exactly(connection: &OwnedFd, data: &mut [u8]) -> Result<(), Error> {
    match retry(|| recv(connection.as_raw_fd(), data, MsgFlags::MSG_WAITALL))? {
        n if n == data.len() => Ok(()),
        _ => Err(gone()),
    }
}

fn descriptor(connection: &OwnedFd) -> Result<OwnedFd, Error> {
    let missing = || Error::Protocol("CRIU sent a task without its userfaultfd".into());
    retry(|| fds::receive(connection))?.ok_or_else(missing)
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(entries: &[&[u8]]) -> Vec<u8> {
        let mut image = Vec::new();
        image::head(&mut image, pstree::MAGIC).unwrap();
        for entry in entries {
            image.extend((entry.len() as u32).to_le_bytes());
            image.extend(*entry);
        }
        image
    }

    #[test]
    fn tasks_are_counted() {
        let count = |bytes: &[u8]| {
            let tasks = image::bytes(Path::new("pstree.img"), (bytes, bytes.len() as u64), pstree::MAGIC);
            tasks.ok().map(|tasks| tasks.len())
        };
        assert_eq!(count(&tasks(&[])), Some(0));
        assert_eq!(count(&tasks(&[b"abc", b"", b"defgh"])), Some(3));
        let whole = tasks(&[b"abc", b"defgh"]);
        assert_eq!(count(&whole[..whole.len() - 1]), None, "cut off");
        assert_eq!(count(&whole[..whole.len() - 7]), None, "cut off within a size");
        assert_eq!(count(b"not an image at all"), None);
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(200));
        fs::create_dir(&long).unwrap();
        drop(listen(&long).unwrap());
        drop(listen(&long).unwrap());
        assert!(long.join(NAME).exists());
    }
}
