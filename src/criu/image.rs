//! The frame of CRIU's images: two magic numbers, then for each message its length (32 bits, the machine's byte order) and
//! it.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;

/// Why images could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file could not be read.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file is no image of the kind that its name says.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// criu/include/magic.h.
const COMMON_MAGIC: u32 = 0x5456_4319;
/// Far above any message that is read here: the largest is that of a process's mappings, some 70 bytes for each.
const MAX_MESSAGE: u32 = 64 << 20;

/// Opens the image at `path`: what is in it, and how many bytes.
pub(crate) fn open(path: &Path) -> Result<(BufReader<File>, u64), ImageError> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), BufReader::new(file))));
    opened.map(|(length, file)| (file, length)).map_err(|cause| ImageError::Io { path: path.into(), cause })
}

/// The messages of the image at `path`, one after the other. The frame's magic numbers have been read.
pub(crate) struct Messages<'a, R> {
    path: &'a Path,
    input: R,
    rest: u64,
}

impl<'a, R: Read> Messages<'a, R> {
    /// Begins to read the image at `path`, of which `rest` bytes are in `input`.
    pub(crate) fn new(path: &'a Path, (input, rest): (R, u64), magic: u32) -> Result<Self, ImageError> {
        let mut messages = Self { path, input, rest };
        match (messages.word()?, messages.word()?) {
            (COMMON_MAGIC, found) if found == magic => Ok(messages),
            found => Err(messages.damaged(format!("its magic numbers are {:x} and {:x}", found.0, found.1))),
        }
    }

    /// The next message; `None` at the end.
    pub(crate) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, ImageError> {
        let Some(bytes) = self.next_bytes()? else { return Ok(None) };
        M::decode(bytes.as_slice()).map(Some).map_err(|e| self.damaged(e.to_string()))
    }

    fn next_bytes(&mut self) -> Result<Option<Vec<u8>>, ImageError> {
        if self.rest == 0 {
            return Ok(None);
        }
        let length = self.word()?;
        if u64::from(length) > self.rest || length > MAX_MESSAGE {
            return Err(self.damaged(format!("a message of {length} bytes, {} are left", self.rest)));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn word(&mut self) -> Result<u32, ImageError> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ImageError> {
        let left = self.rest.checked_sub(bytes.len() as u64);
        self.rest = left.ok_or_else(|| self.damaged("it is cut off".into()))?;
        self.input.read_exact(bytes).map_err(|cause| ImageError::Io { path: self.path.into(), cause })
    }

    fn damaged(&self, what: String) -> ImageError {
        ImageError::Damaged { path: self.path.into(), what }
    }
}

/// The first `most` messages of the image at `path`, of which `rest` bytes are there. A stream's queues follow its
/// message without a frame, hence `most`.
pub(crate) fn messages<M: Message + Default>(
    path: &Path,
    input: (impl Read, u64),
    magic: u32,
    most: usize,
) -> Result<Vec<M>, ImageError> {
    let mut image = Messages::new(path, input, magic)?;
    let mut messages = Vec::new();
    while messages.len() < most {
        match image.next()? {
            Some(message) => messages.push(message),
            None => break,
        }
    }
    Ok(messages)
}

/// The messages of the image at `path`, whatever is in them.
pub(crate) fn bytes(path: &Path, input: (impl Read, u64), magic: u32) -> Result<Vec<Vec<u8>>, ImageError> {
    let mut image = Messages::new(path, input, magic)?;
    std::iter::from_fn(|| image.next_bytes().transpose()).collect()
}

/// Begins an image.
pub(crate) fn head(output: &mut impl Write, magic: u32) -> io::Result<()> {
    output.write_all(&COMMON_MAGIC.to_ne_bytes())?;
    output.write_all(&magic.to_ne_bytes())
}

/// Adds a message to an image.
pub(crate) fn message(output: &mut impl Write, message: &impl Message) -> io::Result<()> {
    frame(output, &message.encode_to_vec())
}

/// The same for one that is encoded already.
pub(crate) fn frame(output: &mut impl Write, message: &[u8]) -> io::Result<()> {
    output.write_all(&(message.len() as u32).to_ne_bytes())?;
    output.write_all(message)
}
