//! The canary: a small process of our own with what services have, a TCP listener and an established connection, dumped
//! and restored for real. It tells what no list of versions can.

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use crate::criu::{Dump, Externals, Restore};
use crate::paths::Paths;
use crate::sys::atomic;
use crate::sys::spawn::Place;

/// The hidden verb of kup-worker that is the canary.
const VERB: &str = "canary-child";
/// File in which the canary says where it listens.
const ADDRESS: &str = "address";
/// A canary that nobody asks ends by itself.
const LIFE: u16 = 60_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// What the canary was found to live through; kept until the next boot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Song {
    kernel: String,
    criu: String,
}

/// Dumps and restores a canary, or remembers that this CRIU did so on this kernel.
///
/// # Errors
/// What went wrong.
pub fn sing(paths: &Paths, criu: &Path, kernel: &str, version: &str) -> Result<()> {
    let song = Song { kernel: kernel.into(), criu: version.into() };
    let known = paths.run_dir().join("canary.json");
    if fs::read(&known).is_ok_and(|text| serde_json::from_slice::<Song>(&text).is_ok_and(|s| s == song)) {
        return Ok(());
    }
    let cage = Cage::make(paths.run_dir().join("canary"))?;
    try_out(criu, &cage.0)?;
    Ok(atomic::write(&known, &serde_json::to_vec(&song)?, 0o600)?)
}

/// The canary's directory; removed at the end.
struct Cage(PathBuf);

impl Cage {
    fn make(dir: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&dir);
        let cage = Self(dir);
        DirBuilder::new().mode(0o700).recursive(true).create(cage.images())?;
        Ok(cage)
    }

    fn images(&self) -> PathBuf {
        self.0.join("images")
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that must not be left behind.
struct Bird(Child);

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn try_out(criu: &Path, cage: &Path) -> Result<()> {
    let images = cage.join("images");
    let mut command = Command::new("/proc/self/exe");
    command.arg(VERB).current_dir(cage).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut bird = Bird(command.spawn().context("cannot start the canary")?);
    let address = address(&cage.join(ADDRESS), &mut bird.0)?;
    let before = ask(address).context("the canary does not answer before the dump")?;

    let pid = bird.0.id().cast_signed();
    let dump =
        Dump { criu, images: &images, main_pid: pid, namespaces: &[], ghost_limit: 1 << 20, pages: None, parent: None };
    dump.run(|| Ok(()), || Ok(Externals::default()), || true).context("dump")?;
    // Its PID is free only when it was waited for.
    bird.0.wait()?;

    let place = Place::default();
    let restore = Restore { criu, images: &images, place, files: Vec::new(), streams: Vec::new(), lazy: false };
    let restored = restore.run(|_| true).context("restore")?;
    let after = ask(address).context("the canary does not answer after the restore");
    kill(Pid::from_raw(restored), Signal::SIGKILL).context("the restored canary is gone")?;
    let after = after?;
    ensure!(restored == pid, "its PID was {pid} and is {restored}");
    ensure!(after == before + 1, "it counted to {before}, and then to {after}");
    Ok(())
}

fn address(file: &Path, bird: &mut Child) -> Result<SocketAddr> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return Ok(text.parse()?);
        }
        if let Some(status) = bird.try_wait()? {
            bail!("the canary ended ({status})");
        }
        ensure!(Instant::now() < deadline, "the canary does not say where it listens");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The canary counts how often it was asked; the number goes over its own connection first.
fn ask(address: SocketAddr) -> Result<u32> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut number = [0; 4];
    stream.read_exact(&mut number)?;
    Ok(u32::from_be_bytes(number))
}

/// The canary itself: the hidden verb `canary-child` of kup-worker, in a directory of its own.
///
/// # Errors
/// When it has no loopback network.
pub fn child() -> Result<()> {
    // CRIU wants the root of a tree to lead its session.
    setsid().context("setsid")?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    atomic::write(&std::env::current_dir()?.join(ADDRESS), listener.local_addr()?.to_string().as_bytes(), 0o600)?;
    let mut asked = 0_u32;
    loop {
        let mut wait = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::from(LIFE)) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let (mut client, _) = listener.accept()?;
        asked += 1;
        near.write_all(&asked.to_be_bytes())?;
        let mut number = [0; 4];
        far.read_exact(&mut number)?;
        client.write_all(&number)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_song_is_not_sung_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let none = Path::new("/nonexistent/criu");
        let song = Song { kernel: "6.12".into(), criu: "Version: 4.1".into() };
        atomic::write(&paths.run_dir().join("canary.json"), &serde_json::to_vec(&song).unwrap(), 0o600).unwrap();
        sing(&paths, none, "6.12", "Version: 4.1").unwrap();
        // Another CRIU is tried, and this one is not there; the test's own program is no canary either.
        assert!(sing(&paths, none, "6.12", "Version: 4.2").is_err());
        assert!(!paths.run_dir().join("canary").exists(), "the cage is cleaned");
    }
}
