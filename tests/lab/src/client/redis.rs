//! redis's protocol, RESP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use super::memcached::Keys;
use super::{Connection, Talk, pipeline, value};

const PORT: u16 = 6379;

/// A request of these words.
fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Stores all keys.
pub fn fill(keys: Keys) -> Result<()> {
    let set = |n: u64| request(&[b"SET", format!("key{n}").as_bytes(), &value(n, keys.size)]);
    pipeline(&mut Connection::open(PORT)?, keys.count, set, |c, n| {
        let line = c.line()?;
        ensure!(line == "+OK", "redis answers {line:?} to key{n}");
        Ok(())
    })
}

/// Reads all keys; a missing or changed one is an error.
pub fn verify(keys: Keys) -> Result<()> {
    let get = |n: u64| request(&[b"GET", format!("key{n}").as_bytes()]);
    pipeline(&mut Connection::open(PORT)?, keys.count, get, |c, n| expect(c, n, keys.size))
}

fn expect(connection: &mut Connection, n: u64, size: usize) -> Result<()> {
    let bytes = bulk(connection)?;
    ensure!(bytes == value(n, size), "redis's key{n} has another value ({} bytes)", bytes.len());
    Ok(())
}

fn bulk(connection: &mut Connection) -> Result<Vec<u8>> {
    let line = connection.line()?;
    let length = line.strip_prefix('$').and_then(|l| l.parse::<usize>().ok());
    let length = length.with_context(|| format!("redis answers {line:?}"))?;
    let mut bytes = connection.bytes(length + 2)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// The id that redis gives itself at each start.
pub fn run_id() -> Result<String> {
    let mut connection = Connection::open(PORT)?;
    connection.send(&request(&[b"INFO", b"server"]))?;
    let info = String::from_utf8(bulk(&mut connection)?)?;
    let id = info.lines().find_map(|l| l.strip_prefix("run_id:")).context("redis tells no run_id")?;
    Ok(id.to_owned())
}

/// Asks for one key after the other.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    keys: Keys,
}

impl Client {
    /// Connects.
    pub fn connect(keys: Keys) -> Result<Self> {
        Ok(Self { connection: Connection::open(PORT)?, keys })
    }
}

impl Talk for Client {
    fn exchange(&mut self, n: u64) -> Result<()> {
        let key = n % self.keys.count;
        self.connection.send(&request(&[b"GET", format!("key{key}").as_bytes()]))?;
        expect(&mut self.connection, key, self.keys.size)
    }
}

/// Sets w0, w1, w2, … and counts what was acknowledged.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    acknowledged: Arc<AtomicU64>,
}

impl Writer {
    /// Connects; `acknowledged` counts.
    pub fn connect(acknowledged: Arc<AtomicU64>) -> Result<Self> {
        Ok(Self { connection: Connection::open(PORT)?, acknowledged })
    }
}

impl Talk for Writer {
    fn exchange(&mut self, n: u64) -> Result<()> {
        self.connection.send(&request(&[b"SET", format!("w{n}").as_bytes(), n.to_string().as_bytes()]))?;
        let line = self.connection.line()?;
        ensure!(line == "+OK", "redis answers {line:?} to w{n}");
        self.acknowledged.store(n + 1, Ordering::SeqCst);
        Ok(())
    }
}

/// Fails unless every one of the `acknowledged` values of a [`Writer`] is there.
pub fn verify_written(acknowledged: u64) -> Result<()> {
    let get = |n: u64| request(&[b"GET", format!("w{n}").as_bytes()]);
    pipeline(&mut Connection::open(PORT)?, acknowledged, get, |c, n| {
        let bytes = bulk(c).with_context(|| format!("w{n}, which was acknowledged"))?;
        ensure!(bytes == n.to_string().as_bytes(), "redis's w{n} has another value");
        Ok(())
    })
}
