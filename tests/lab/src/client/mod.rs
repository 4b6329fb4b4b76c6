//! Clients of the services under test: real peers that keep one TCP connection each over an update.

pub mod download;
pub mod memcached;
pub mod postgres;
pub mod redis;
pub mod testserver;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::vm::GUEST;
use crate::vm::namespace::Namespace;

/// How long a client waits for an answer: longer than any update takes here.
const PATIENCE: Duration = Duration::from_secs(600);
/// One TCP connection to the guest.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to `port`; only from inside the peer's namespace.
    pub fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect((GUEST, port)).with_context(|| format!("cannot connect to port {port}"))?;
        Self::over(stream, PATIENCE)
    }

    /// The same for somebody who gives up after `patience`.
    pub fn open_within(port: u16, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&format!("{GUEST}:{port}").parse()?, patience)?;
        Self::over(stream, patience)
    }

    fn over(stream: TcpStream, patience: Duration) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().write_all(bytes).context("the connection broke while sending")
    }

    /// A second handle, to send while another thread receives.
    pub fn sender(&self) -> Result<TcpStream> {
        Ok(self.reader.get_ref().try_clone()?)
    }

    /// Receives one line, without its end.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("the connection broke while receiving")?;
        ensure!(length > 0, "the server has closed the connection");
        Ok(line.trim_end().to_owned())
    }

    /// Receives exactly `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes).context("the connection broke while receiving")?;
        Ok(bytes)
    }

    /// Receives until the server closes.
    pub fn rest(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.reader.read(&mut buffer).context("the connection broke while receiving")? {
                0 => return Ok(()),
                length => each(&buffer[..length]),
            }
        }
    }
}

/// Someone who asks a service something again and again over one connection.
pub trait Talk: Send + 'static {
    /// Time between an answer and the next request.
    const BEAT: Duration = Duration::from_millis(50);

    /// The `n`th request and its answer; an answer that is not what it must be is an error.
    fn exchange(&mut self, n: u64) -> Result<()>;
}

/// A client at work.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Result<Rhythm>>>,
}

/// What a client has seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rhythm {
    /// Requests that were answered rightly; all of them.
    pub requests: u64,
    /// The longest time between two answers: the blackout.
    pub blackout: Duration,
}

impl Pulse {
    /// Starts a client in the peer's namespace; `connect` is run there.
    pub fn start<T: Talk>(
        name: &'static str,
        peer: &Namespace,
        connect: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = peer.spawn(move || beat(connect()?, &stopped))?;
        Ok(Self { name, stop, thread })
    }

    /// Ends the client, once it has an answer to its last request.
    pub fn stop(self) -> Result<Rhythm> {
        self.stop.store(true, Ordering::Relaxed);
        let end = self.thread.join().map_err(|_| anyhow!("the client of {} panicked", self.name))?;
        end?.with_context(|| format!("the client of {}", self.name))
    }
}

fn beat<T: Talk>(mut talk: T, stopped: &AtomicBool) -> Result<Rhythm> {
    let mut rhythm = Rhythm::default();
    let mut last = Instant::now();
    loop {
        talk.exchange(rhythm.requests).with_context(|| format!("after {} answers", rhythm.requests))?;
        rhythm.requests += 1;
        rhythm.blackout = rhythm.blackout.max(last.elapsed());
        last = Instant::now();
        if stopped.load(Ordering::Relaxed) {
            return Ok(rhythm);
        }
        std::thread::sleep(T::BEAT);
    }
}

/// `length` bytes that belong to `key` alone: whoever mixes up or loses a byte is found out.
pub fn value(key: u64, length: usize) -> Vec<u8> {
    let mut state = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*, see Vigna, "An experimental exploration of Marsaglia's xorshift generators".
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends many requests on one connection while their answers are read, so that neither waits for the other.
pub fn pipeline(
    connection: &mut Connection,
    count: u64,
    request: impl Fn(u64) -> Vec<u8> + Send,
    mut answer: impl FnMut(&mut Connection, u64) -> Result<()>,
) -> Result<()> {
    let mut sender = connection.sender()?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || (0..count).try_for_each(|n| sender.write_all(&request(n))));
        for n in 0..count {
            answer(connection, n)?;
        }
        sending.join().map_err(|_| anyhow!("the sender panicked"))?.context("the connection broke while sending")
    })
}
