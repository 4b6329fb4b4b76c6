//! What the tests share: an image that is computed, a stand-in for CRIU, and a store that keeps nothing.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::fdstore::Store;
use super::super::{Error, Service, socket};
use crate::store::{Extent, Memory, PAGE};
use crate::sys::uffd::Uffd;
use crate::sys::watched;

/// Every page holds what [`value`] says.
pub struct Image {
    pub extents: Vec<Extent>,
    /// How long a read takes.
    pub slow: Duration,
    /// Where its bytes have changed.
    pub bad: Option<u64>,
}

/// What the page that was dumped at `address` holds, in its first and its last word.
pub fn value(address: u64) -> u64 {
    (address | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Image {
    /// `pages` pages at `start`, of which every 40th is a hole.
    pub fn with_holes(start: u64, pages: u64, slow: Duration) -> Self {
        let extent = |first: u64| Extent { start: start + first * PAGE, pages: 39.min(pages - first), lazy: true };
        Self { extents: (0..pages).step_by(40).map(extent).collect(), slow, bad: None }
    }

    /// Whether page `n` is one.
    pub fn is_hole(n: u64) -> bool {
        n % 40 == 39
    }
}

impl Memory for Image {
    fn extents(&self) -> &[Extent] {
        &self.extents
    }

    fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()> {
        std::thread::sleep(self.slow);
        for (n, page) in data.chunks_mut(PAGE as usize).enumerate() {
            let address = address + n as u64 * PAGE;
            if self.bad == Some(address) {
                return Err(io::Error::other("its checksum is another"));
            }
            page[..8].copy_from_slice(&value(address).to_ne_bytes());
            page[PAGE as usize - 8..].copy_from_slice(&value(address).to_ne_bytes());
        }
        Ok(())
    }
}

/// Runs a test in a process of its own: a process whose faults it serves itself must not fork for other tests, and what
/// kills or hangs it is to be noticed.
pub fn alone(test: &str, work: impl FnOnce()) {
    const ALONE: &str = "KUP_PAGER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return work();
    }
    if watched::open().is_none() {
        eprintln!("SKIPPED: needs root, and userfaultfd with its events");
        return;
    }
    let name = format!("pager::tests::{test}");
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "120"]).arg(std::env::current_exe().unwrap());
    command.args([&name, "--exact", "--nocapture", "--include-ignored"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    print!("{text}");
}

pub struct Nobody;

impl Store for Nobody {
    fn keep(&self, _: &str, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn release(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

pub fn never(error: &Error) {
    panic!("nothing is to be lost: {error}");
}

/// Serves from `image` until all is there.
pub fn service<'a>(
    memory: &'a (dyn Fn(i32) -> io::Result<Arc<dyn Memory>> + 'a),
    store: &'a dyn Store,
    lost: &'a (dyn Fn(&Error) + Sync),
) -> Service<'a> {
    Service { memory, store, lost, fillers: 2, huge: Vec::new() }
}

/// CRIU's part.
pub struct Criu(UnixStream);

impl Criu {
    /// Waits until somebody listens.
    pub fn connect(dir: &Path) -> Self {
        loop {
            match UnixStream::connect(dir.join(socket::NAME)) {
                Ok(stream) => return Self(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    pub fn task(&mut self, pid: i32, uffd: &Uffd) {
        self.0.write_all(&pid.to_ne_bytes()).unwrap();
        let fds = [uffd.as_fd().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None).unwrap();
    }

    pub fn zombie(&mut self, pid: i32) {
        self.0.write_all(&(-pid).to_ne_bytes()).unwrap();
    }

    pub fn finish(&mut self) {
        self.0.write_all(&0x5253_5446_u32.to_ne_bytes()).unwrap();
    }
}
