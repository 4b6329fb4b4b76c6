//! A pipe and a socketpair with bytes in them that nobody has read yet.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv};

use super::Item;
use crate::pattern::bytes;

const UNREAD: usize = 100_000;
const CAPACITY: i32 = 256 * 1024;
const UNREAD_ON_SOCKET: usize = 20_000;

/// A pipe of another capacity than usual.
pub struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Pipe {
    pub fn new() -> Result<Self> {
        let (reader, mut writer) = pipe()?;
        fcntl(&writer, FcntlArg::F_SETPIPE_SZ(CAPACITY))?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        writer.write_all(&bytes(1, UNREAD))?;
        Ok(Self { reader, writer })
    }
}

impl Item for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn check(&mut self) -> Result<()> {
        let capacity = fcntl(&self.writer, FcntlArg::F_GETPIPE_SZ)?;
        ensure!(capacity == CAPACITY, "its capacity is {capacity} instead of {CAPACITY}");
        let flags = OFlag::from_bits_retain(fcntl(&self.reader, FcntlArg::F_GETFL)?);
        ensure!(flags.contains(OFlag::O_NONBLOCK), "it lost O_NONBLOCK");
        let mut found = Vec::new();
        match self.reader.read_to_end(&mut found) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            other => ensure!(false, "reading it empty ends with {other:?}"),
        }
        self.writer.write_all(&bytes(1, UNREAD))?;
        ensure!(found == bytes(1, UNREAD), "it held {} bytes that are not what was written", found.len());
        Ok(())
    }
}

/// Both ends of a unix stream connection.
pub struct Pair {
    one: UnixStream,
    other: UnixStream,
}

impl Pair {
    pub fn new() -> Result<Self> {
        let (mut one, other) = UnixStream::pair()?;
        one.write_all(&bytes(2, UNREAD_ON_SOCKET))?;
        other.set_nonblocking(true)?;
        Ok(Self { one, other })
    }
}

impl Item for Pair {
    fn name(&self) -> &'static str {
        "socketpair"
    }

    fn check(&mut self) -> Result<()> {
        let mut found = vec![0; UNREAD_ON_SOCKET + 1];
        let len = recv(self.other.as_raw_fd(), &mut found, MsgFlags::MSG_PEEK)?;
        ensure!(found[..len] == bytes(2, UNREAD_ON_SOCKET), "it held {len} bytes that are not what was written");
        self.other.write_all(b"back")?;
        let mut back = [0; 4];
        self.one.read_exact(&mut back)?;
        ensure!(&back == b"back", "the way back brings {back:?}");
        Ok(())
    }
}
