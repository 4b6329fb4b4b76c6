//! redis's protocol, RESP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    verify_at(PORT, keys)
}

/// The same of another redis.
pub fn verify_at(port: u16, keys: Keys) -> Result<()> {
    let get = |n: u64| request(&[b"GET", format!("key{n}").as_bytes()]);
    pipeline(&mut Connection::open(port)?, keys.count, get, |c, n| expect(c, n, keys.size))
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
    info("server", "run_id")
}

/// What redis says of itself.
pub fn info(section: &str, key: &str) -> Result<String> {
    let mut connection = Connection::open(PORT)?;
    connection.send(&request(&[b"INFO", section.as_bytes()]))?;
    let info = String::from_utf8(bulk(&mut connection)?)?;
    let value = info.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("redis tells no {key}"))?.to_owned())
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

/// Replaces values of its own again and again, and has redis give the memory of the old ones back to the kernel. When there
/// was no answer for long, it has redis fork and save at once.
#[derive(Debug)]
pub struct Churn {
    connection: Connection,
    /// Keys that are not its own, which it reads.
    keys: Keys,
    last: Instant,
}

impl Churn {
    /// So long nobody waits who is not in a blackout.
    const LONG: Duration = Duration::from_secs(5);
    /// Its own values, how many of them an exchange replaces, and their size.
    const OWN: u64 = 256;
    const EACH: u64 = 8;
    const SIZE: usize = 64 << 10;

    /// Connects.
    pub fn connect(keys: Keys) -> Result<Self> {
        Ok(Self { connection: Connection::open(PORT)?, keys, last: Instant::now() })
    }

    fn ask(&mut self, words: &[&[u8]]) -> Result<String> {
        self.connection.send(&request(words))?;
        self.connection.line()
    }

    /// A value of its own: the `n`th round's.
    fn replace(&mut self, n: u64, i: u64) -> Result<()> {
        let (key, seed) = (format!("own{}", (n * Self::EACH + i) % Self::OWN), n * Self::EACH + i);
        if seed >= Self::OWN {
            self.connection.send(&request(&[b"GET", key.as_bytes()]))?;
            let old = bulk(&mut self.connection)?;
            ensure!(old == value(seed - Self::OWN, Self::SIZE), "redis's {key} has another value");
            ensure!(self.ask(&[b"DEL", key.as_bytes()])? == ":1", "redis has no {key}");
            ensure!(self.ask(&[b"MEMORY", b"PURGE"])? == "+OK", "redis cannot give memory back");
        }
        let set = self.ask(&[b"SET", key.as_bytes(), &value(seed, Self::SIZE)])?;
        ensure!(set == "+OK", "redis answers {set:?} to {key}");
        Ok(())
    }
}

impl Talk for Churn {
    fn exchange(&mut self, n: u64) -> Result<()> {
        (0..Self::EACH).try_for_each(|i| self.replace(n, i))?;
        let key = n * 149 % self.keys.count;
        self.connection.send(&request(&[b"GET", format!("key{key}").as_bytes()]))?;
        expect(&mut self.connection, key, self.keys.size)?;
        // This very exchange may have begun before a blackout.
        if self.last.elapsed() > Self::LONG {
            let answer = self.ask(&[b"BGSAVE"])?;
            // So many changes, and so long ago: redis may have begun one by itself.
            let saves = ["+Background saving started", "-ERR Background save already in progress"];
            ensure!(saves.contains(&answer.as_str()), "redis answers {answer:?} to BGSAVE");
        }
        self.last = Instant::now();
        Ok(())
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
