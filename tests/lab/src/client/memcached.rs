//! memcached's text protocol.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Connection, Talk, pipeline, value};

const PORT: u16 = 11211;

/// A set of keys and what belongs to them.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// How many.
    pub count: u64,
    /// Bytes of each value.
    pub size: usize,
}

impl Keys {
    /// So many MiB in values of 8 KiB.
    pub const fn mib(mib: u64) -> Self {
        Self { count: mib << 7, size: 8 << 10 }
    }

    /// What memcached has to be allowed (MiB) so that it forgets none of these: its chunks are larger than what they hold.
    pub fn allowance(self) -> u64 {
        ((self.count * self.size as u64) >> 20) * 3 / 2 + 64
    }

    /// The first so many percent of them.
    pub fn percent(self, share: u64) -> Self {
        Self { count: self.count * share / 100, ..self }
    }
}

/// Stores all keys.
pub fn fill(keys: Keys) -> Result<()> {
    pipeline(&mut Connection::open(PORT)?, keys.count, |n| set(n, keys.size), stored)
}

fn set(n: u64, size: usize) -> Vec<u8> {
    let mut bytes = format!("set key{n} 0 0 {size}\r\n").into_bytes();
    bytes.extend(value(n, size));
    bytes.extend(b"\r\n");
    bytes
}

fn stored(connection: &mut Connection, n: u64) -> Result<()> {
    let line = connection.line()?;
    ensure!(line == "STORED", "memcached answers {line:?} to key{n}");
    Ok(())
}

/// Reads all keys; a missing or changed one is an error.
pub fn verify(keys: Keys) -> Result<()> {
    let request = |n: u64| format!("get key{n}\r\n").into_bytes();
    pipeline(&mut Connection::open(PORT)?, keys.count, request, |c, n| expect(c, n, keys.size))
}

fn expect(connection: &mut Connection, n: u64, size: usize) -> Result<()> {
    let line = connection.line()?;
    ensure!(line == format!("VALUE key{n} 0 {size}"), "memcached answers {line:?} when asked for key{n}");
    ensure!(connection.bytes(size)? == value(n, size), "memcached's key{n} has another value");
    ensure!(connection.bytes(7)? == b"\r\nEND\r\n", "memcached's answer to key{n} has no end");
    Ok(())
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
        self.connection.send(format!("get key{key}\r\n").as_bytes())?;
        expect(&mut self.connection, key, self.keys.size)
    }
}

/// Stores keys again and again, with the values that they have: memory is written, and its content can still be verified.
#[derive(Debug)]
pub struct Writer {
    connection: Connection,
    keys: Keys,
}

/// So many at a time.
const BATCH: u64 = 128;

impl Writer {
    /// Connects.
    pub fn connect(keys: Keys) -> Result<Self> {
        Ok(Self { connection: Connection::open(PORT)?, keys })
    }
}

impl Talk for Writer {
    /// As fast as memcached takes it: a pause would decide how much is written, whatever the share of keys.
    const BEAT: Duration = Duration::ZERO;

    fn exchange(&mut self, n: u64) -> Result<()> {
        let keys: Vec<u64> = (n * BATCH..(n + 1) * BATCH).map(|n| n % self.keys.count.max(1)).collect();
        self.connection.send(&keys.iter().flat_map(|n| set(*n, self.keys.size)).collect::<Vec<_>>())?;
        keys.iter().try_for_each(|n| stored(&mut self.connection, *n))
    }
}

/// memcached has answered something that it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong;

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("memcached's answer is wrong")
    }
}

/// memcached as a cache: what is asked for may be missing.
#[derive(Debug)]
pub struct Cache {
    connection: Connection,
    keys: Keys,
}

impl Cache {
    /// Connects; gives up whatever takes longer than `patience`.
    pub fn connect(keys: Keys, patience: Duration) -> Result<Self> {
        Ok(Self { connection: Connection::open_within(PORT, patience)?, keys })
    }

    /// Is the key there? One that is there with another value is [`Wrong`].
    pub fn get(&mut self, key: u64) -> Result<bool> {
        self.connection.send(format!("get key{key}\r\n").as_bytes())?;
        let size = self.keys.size;
        match self.connection.line()?.as_str() {
            "END" => Ok(false),
            line if line == format!("VALUE key{key} 0 {size}") => {
                ensure!(self.connection.bytes(size)? == value(key, size), Wrong);
                ensure!(self.connection.bytes(7)? == b"\r\nEND\r\n", Wrong);
                Ok(true)
            }
            _ => bail!(Wrong),
        }
    }

    /// Stores the key.
    pub fn set(&mut self, key: u64) -> Result<()> {
        self.connection.send(&set(key, self.keys.size))?;
        stored(&mut self.connection, key)
    }
}
