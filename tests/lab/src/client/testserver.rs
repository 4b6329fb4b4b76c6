//! The test server's line protocol.

use anyhow::{Context, Result, bail, ensure};

use super::{Connection, Talk};

const PORT: u16 = 7070;

/// Asks for the server's request counter, which must go up by one each time.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    last: Option<u64>,
}

impl Client {
    /// Connects.
    pub fn connect() -> Result<Self> {
        Ok(Self { connection: Connection::open(PORT)?, last: None })
    }
}

impl Talk for Client {
    fn exchange(&mut self, _: u64) -> Result<()> {
        let line = ask(&mut self.connection, "count")?;
        let count: u64 = line.parse().with_context(|| format!("the test server answers {line:?} to count"))?;
        ensure!(self.last.is_none_or(|last| count > last), "the counter went from {:?} to {count}", self.last);
        self.last = Some(count);
        Ok(())
    }
}

fn ask(connection: &mut Connection, request: &str) -> Result<String> {
    connection.send(format!("{request}\n").as_bytes())?;
    connection.line()
}

/// Lets the server check everything that it holds.
pub fn check() -> Result<()> {
    let mut connection = Connection::open(PORT)?;
    connection.send(b"check\n")?;
    let mut lines = Vec::new();
    loop {
        match connection.line()?.as_str() {
            "." => break,
            line => lines.push(line.to_owned()),
        }
    }
    let failed: Vec<&String> = lines.iter().filter(|l| l.starts_with("FAIL")).collect();
    if lines.is_empty() || !failed.is_empty() {
        bail!("the test server's check of itself: {failed:?} ({} items)", lines.len());
    }
    Ok(())
}

/// The server's facts, as JSON.
pub fn state() -> Result<serde_json::Value> {
    let line = ask(&mut Connection::open(PORT)?, "state")?;
    serde_json::from_str(&line).with_context(|| format!("the test server's state: {line}"))
}

/// Makes the server print a line to its standard output.
pub fn log(text: &str) -> Result<()> {
    ask(&mut Connection::open(PORT)?, &format!("log {text}")).map(drop)
}
