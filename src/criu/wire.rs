//! The commands of CRIU's page server as they are on the wire.
//!
//! `struct page_server_iov` of criu/page-xfer.c has no version. Up to CRIU 4.1.1 it has 24 bytes: command (32 bits), number
//! of pages (32), address (64), owner (64); from 4.2 on 32 bytes: command (32), 32 bits that say nothing, number of pages
//! (64), address (64), owner (64). All in the machine's byte order.

use std::io::{self, Read};

use super::page_server::PageError;
use super::pagemap::{PARENT, PRESENT};
use crate::store::Owner;

/// Which of the two it is.
///
/// The first command tells, whoever built that CRIU: it names an owner, which is never 0, and neither pages nor an
/// address. So bytes 16 to 23 are the owner in the old layout, and 0, an address, in the new one. A dump without any memory
/// ends with its first command; there the rest of it does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Nothing has come yet.
    Unknown,
    /// 24 bytes.
    Old,
    /// 32 bytes.
    New,
}

/// What CRIU wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// To begin with an owner; the answer is one byte: was it there in the round before?
    Open,
    /// To know whether an owner was there in the round before; the answer is an int.
    Parent,
    /// To add pages with these flags (`PE_…` of criu/include/pagemap.h).
    Add(u32),
    /// To end; the answer is an int, 0 for success.
    Close,
    /// Nothing that we serve.
    Other(u32),
}

/// A command with its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is to be done.
    pub command: Command,
    /// How many pages.
    pub pages: u64,
    /// Address of the first.
    pub address: u64,
    /// Whose; see [`Header::owner`].
    id: u64,
}

impl Layout {
    /// Reads a command.
    ///
    /// # Errors
    /// As `stream`'s.
    pub fn read(&mut self, stream: &mut impl Read) -> io::Result<Header> {
        let mut bytes = [0; 32];
        stream.read_exact(&mut bytes[..24])?;
        let command = Command::of(half(&bytes, 0));
        if *self == Self::Unknown {
            if command == Command::Close {
                return Ok(Header { command, pages: 0, address: 0, id: 0 });
            }
            *self = if word(&bytes, 16) != 0 { Self::Old } else { Self::New };
        }
        if *self == Self::Old {
            let pages = half(&bytes, 4).into();
            return Ok(Header { command, pages, address: word(&bytes, 8), id: word(&bytes, 16) });
        }
        stream.read_exact(&mut bytes[24..])?;
        Ok(Header { command, pages: word(&bytes, 8), address: word(&bytes, 16), id: word(&bytes, 24) })
    }
}

impl Command {
    /// The number is in the lower 16 bits, flags of pages in the upper ones.
    fn of(word: u32) -> Self {
        match word & 0xffff {
            // ADD and HOLE are of CRIUs before there were flags.
            1 => Self::Add(PRESENT),
            2 => Self::Add(PARENT),
            4 => Self::Open,
            5 => Self::Parent,
            6 => Self::Add(word >> 16),
            // CLOSE, and FORCE_CLOSE where the socket was given to CRIU.
            0x1023 | 0x1024 => Self::Close,
            number => Self::Other(number),
        }
    }
}

impl Header {
    /// Whose pages they are: the kind is in the lower 8 bits, its number in the others.
    ///
    /// # Errors
    /// [`PageError::Absurd`].
    pub fn owner(&self) -> Result<Owner, PageError> {
        match (self.id & 0xff, self.id >> 8) {
            (1, pid @ 1..=0x7fff_ffff) => Ok(Owner::Process(pid as i32)),
            (2, id) => Ok(Owner::Shared(id)),
            _ => Err(PageError::Absurd(format!("nobody has the number {:#x}", self.id))),
        }
    }
}

fn half(bytes: &[u8; 32], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(half)
}

fn word(bytes: &[u8; 32], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
