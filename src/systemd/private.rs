//! PID 1 on its private socket, which is there from its start on, long before any bus.
//!
//! What goes over it is plain D-Bus, but for the sender of the answers: PID 1 signs them with a well-known name, which no
//! bus would let pass, and which zbus refuses ("Invalid unique name"). So of zbus only the messages that are sent and the
//! wire format are used here. One call at a time, each waits for its answer.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::unistd::geteuid;
use zbus::message::Message;
use zbus::wire::serialized::{self, Data};
use zbus::wire::{NATIVE_ENDIAN, OwnedVariant, Type};

/// Where PID 1 listens for root.
pub(super) const SOCKET: &str = "/run/systemd/private";
/// PID 1 answers a reload when all generators are done.
const TIMEOUT: Duration = Duration::from_secs(120);
/// No D-Bus message is longer.
const LONGEST: usize = 128 << 20;
/// Endianness, kind, flags, version, length of the body, serial number, length of the fields: what each message begins with.
const FIXED: usize = 16;

/// A connection to PID 1. It is made anew when it breaks, as it does when PID 1 executes itself again.
#[derive(Debug)]
pub(super) struct Private {
    path: PathBuf,
    stream: Mutex<Option<UnixStream>>,
}

impl Private {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody is there, or it does not accept this user.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let stream = open(path)?;
        Ok(Self { path: path.into(), stream: Mutex::new(Some(stream)) })
    }

    /// Sends `call` and gives the body of its answer.
    ///
    /// # Errors
    /// What PID 1 says, or what became of the connection.
    pub(super) fn call<R>(&self, call: &Message) -> Result<R>
    where
        R: for<'d> serde::Deserialize<'d> + Type,
    {
        let mut slot = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        // Only put back when the answer has been read to its end: after half a message nothing makes sense.
        let mut stream = self.send(slot.take(), call.data().bytes())?;
        let answer = loop {
            let message = Incoming::read(&mut stream).context("PID 1 does not answer")?;
            // Signals come unasked.
            if message.answers()? == Some(call.primary_header().serial_num().get()) {
                break message;
            }
        };
        *slot = Some(stream);
        drop(slot);
        answer.body()
    }

    /// Sends `bytes`, over a new connection where the old one is closed: they cannot have been read there.
    fn send(&self, stream: Option<UnixStream>, bytes: &[u8]) -> Result<UnixStream> {
        if let Some(mut stream) = stream {
            match stream.write_all(bytes) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                sent => return sent.map(|()| stream).context("cannot send to PID 1"),
            }
        }
        let mut stream = open(&self.path)?;
        stream.write_all(bytes).context("cannot send to PID 1")?;
        Ok(stream)
    }
}

fn open(path: &Path) -> Result<UnixStream> {
    let connect = || -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        authenticate(&mut stream)?;
        Ok(stream)
    };
    connect().with_context(|| format!("cannot talk to PID 1 at {}", path.display()))
}

/// The D-Bus specification's handshake: the kernel tells the other side who this is. Its end goes out together with its
/// beginning, as systemctl does it: a call that PID 1 reads together with BEGIN stays in its buffer until more comes.
fn authenticate(stream: &mut UnixStream) -> io::Result<()> {
    let uid: String = geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > 1024 {
            return Err(io::Error::other("its greeting does not end"));
        }
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(&line).trim_end())));
    }
    Ok(())
}

/// A message of PID 1.
#[derive(Debug)]
struct Incoming {
    bytes: Vec<u8>,
    /// By their codes in the D-Bus specification.
    fields: Vec<(u8, OwnedVariant)>,
    body_at: usize,
}

impl Incoming {
    const ERROR: u8 = 3;
    const ERROR_NAME: u8 = 4;
    const REPLY_SERIAL: u8 = 5;
    const SIGNATURE: u8 = 8;

    fn read(stream: &mut impl Read) -> Result<Self> {
        let mut bytes = vec![0; FIXED];
        stream.read_exact(&mut bytes)?;
        let native = if cfg!(target_endian = "big") { b'B' } else { b'l' };
        ensure!(bytes[0] == native, "it begins a message with {:#x}", bytes[0]);
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let body_at = (FIXED + number(12)).next_multiple_of(8);
        let length = body_at + number(4);
        ensure!(length <= LONGEST, "its message is {length} bytes long");
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[FIXED..])?;
        // The fields are an array, whose length is the last of the fixed numbers.
        let context = serialized::Context::new(NATIVE_ENDIAN, 12);
        let (fields, _) = Data::new(&bytes[12..body_at], context).deserialize().context("its message has no header")?;
        Ok(Self { bytes, fields, body_at })
    }

    fn field(&self, code: u8) -> Option<&OwnedVariant> {
        self.fields.iter().find(|(c, _)| *c == code).map(|(_, value)| value)
    }

    /// The serial number of the call that it answers; none of a signal.
    fn answers(&self) -> Result<Option<u32>> {
        self.field(Self::REPLY_SERIAL).map(|v| Ok(u32::try_from(v)?)).transpose()
    }

    /// What it says, or its error.
    fn body<R>(&self) -> Result<R>
    where
        R: for<'d> serde::Deserialize<'d> + Type,
    {
        let signature = match self.field(Self::SIGNATURE) {
            Some(value) => zbus::wire::Signature::try_from(value.try_clone()?)?.to_string_no_parens(),
            None => String::new(),
        };
        let data = Data::new(&self.bytes[self.body_at..], serialized::Context::new(NATIVE_ENDIAN, 0));
        if self.bytes[1] == Self::ERROR {
            let name = self.field(Self::ERROR_NAME).and_then(|v| <&str>::try_from(v).ok()).unwrap_or("an error");
            let words: Option<String> =
                signature.starts_with('s').then(|| data.deserialize().ok()).flatten().map(|d| d.0);
            return Err(anyhow!("{name}: {}", words.unwrap_or_default()));
        }
        let expected = R::SIGNATURE.to_string_no_parens();
        if signature != expected {
            bail!("it answers with '{signature}', not '{expected}'");
        }
        Ok(data.deserialize()?.0)
    }
}

#[cfg(test)]
#[path = "private_tests.rs"]
mod tests;
