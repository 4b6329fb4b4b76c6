//! CRIU's page server: what CRIU dumps comes through a socket and is stored (criu/page-xfer.c).
//!
//! CRIU sends commands, each with a range of pages, and behind some of them the pages. It waits for an answer where it
//! begins with a process, asks whether there is an earlier round, and ends.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

use super::pagemap::{LAZY, PARENT, PRESENT, each_chunk};
use super::wire::{Command, Header, Layout};
use crate::store::{Foam, FoamError, Owner, WINDOW};

/// What may be under way between CRIU and us, bytes: enough that neither waits for the other at each command.
const UNDER_WAY: usize = 4 << 20;

/// What a server and what is under way to it take, bytes. The kernel counts a socket's buffers with their headers, twice.
pub const MEMORY: u64 = WINDOW + 2 * UNDER_WAY as u64;

/// A thread that stores one round of a dump.
pub struct PageServer {
    thread: JoinHandle<Result<Foam, PageError>>,
    stream: UnixStream,
}

/// Why a round was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The socket failed.
    #[error("criu's pages: {0}")]
    Io(io::Error),
    /// CRIU went away in the midst of it.
    #[error("criu's pages ended before they were complete")]
    Torn,
    /// Something that no CRIU says, or none that was asked for this.
    #[error("criu's pages: {0}")]
    Absurd(String),
    /// They cannot be stored.
    #[error(transparent)]
    Foam(#[from] FoamError),
    /// The thread broke.
    #[error("the page server broke")]
    Panicked,
}

impl From<io::Error> for PageError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl PageServer {
    /// Starts to store the next round of `foam`. The descriptor is CRIU's end ([`super::Dump::pages`]).
    ///
    /// # Errors
    /// EMFILE, EAGAIN.
    pub fn start(mut foam: Foam) -> io::Result<(Self, OwnedFd)> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let stream = ours.try_clone()?;
        // Only root may have that much; anyone else's is slower.
        let _ = setsockopt(&theirs, SndBufForce, &UNDER_WAY);
        let serve = move || {
            let served = serve(&mut ours, &mut foam);
            // There is another descriptor of it, and CRIU would wait for an answer.
            let _ = ours.shutdown(Shutdown::Both);
            served.map(|()| foam)
        };
        let thread = std::thread::Builder::new().name("pages".into()).spawn(serve)?;
        Ok((Self { thread, stream }, theirs.into()))
    }

    /// Waits until CRIU has ended the round, and returns what was stored. A dump that fails ends it too: whether all of it
    /// is there, [`super::Dump`] says, which asks `complete` only after this. After an error nothing of what was stored
    /// before is of use either; unless it is [`PageError::Torn`], it is why the dump has failed.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn finish(self) -> Result<Foam, PageError> {
        self.thread.join().map_err(|_| PageError::Panicked)?
    }

    /// Ends a round whose CRIU has failed; a process that it has left behind may still have its end of the socket. Why it could
    /// not be stored, where that was before.
    pub fn give_up(self) -> Option<PageError> {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.finish().err().filter(|e| !matches!(e, PageError::Torn))
    }
}

/// Stores what comes through `stream`, until CRIU says that the round has ended.
///
/// # Errors
/// [`PageError`]. CRIU is not answered then, and its dump fails when the stream is closed.
pub fn serve(stream: &mut (impl Read + Write), foam: &mut Foam) -> Result<(), PageError> {
    let mut layout = Layout::Unknown;
    let mut buffer = vec![0; WINDOW as usize];
    let mut current = None;
    loop {
        let header = layout.read(stream).map_err(torn)?;
        match header.command {
            Command::Open => {
                let owner = header.owner()?;
                foam.begin(owner)?;
                current = Some(owner);
                stream.write_all(&[foam.knows(owner).into()])?;
            }
            Command::Parent => {
                let known: i32 = foam.knows(header.owner()?).into();
                stream.write_all(&known.to_ne_bytes())?;
            }
            Command::Add(flags) => {
                let owner = header.owner()?;
                if current != Some(owner) {
                    return Err(FoamError::NotBegun(owner).into());
                }
                add(stream, foam, owner, &header, flags, &mut buffer)?;
            }
            Command::Close => {
                foam.end_round();
                return Ok(stream.write_all(&0i32.to_ne_bytes())?);
            }
            Command::Other(number) => return Err(PageError::Absurd(format!("command {number}"))),
        }
    }
}

fn add(
    stream: &mut impl Read,
    foam: &mut Foam,
    owner: Owner,
    header: &Header,
    flags: u32,
    buffer: &mut [u8],
) -> Result<(), PageError> {
    match flags {
        PARENT => Ok(foam.keep(owner, header.address, header.pages)?),
        _ if flags & !LAZY == PRESENT => {
            // Before anything is counted with them.
            foam.fits(owner, header.address, header.pages)?;
            each_chunk(header.address, header.pages, buffer, |address, buffer| {
                stream.read_exact(buffer).map_err(torn)?;
                Ok(foam.write(owner, address, buffer, flags & LAZY != 0)?)
            })
        }
        // CRIU would keep the pages until a restore asks for them; there will be no CRIU then.
        _ => Err(PageError::Absurd(format!("pages of {owner} at {:#x} with the flags {flags:#x}", header.address))),
    }
}

fn torn(e: io::Error) -> PageError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => PageError::Torn,
        _ => PageError::Io(e),
    }
}

#[cfg(test)]
#[path = "page_server_tests.rs"]
mod tests;
