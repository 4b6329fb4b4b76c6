//! memcached's text protocol.

use anyhow::{Result, ensure};

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

/// Stores all keys.
pub fn fill(keys: Keys) -> Result<()> {
    let request = |n: u64| {
        let mut bytes = format!("set key{n} 0 0 {}\r\n", keys.size).into_bytes();
        bytes.extend(value(n, keys.size));
        bytes.extend(b"\r\n");
        bytes
    };
    pipeline(&mut Connection::open(PORT)?, keys.count, request, |c, n| {
        let line = c.line()?;
        ensure!(line == "STORED", "memcached answers {line:?} to key{n}");
        Ok(())
    })
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
