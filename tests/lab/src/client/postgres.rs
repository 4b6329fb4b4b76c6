//! A PostgreSQL client that remembers what was acknowledged to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use postgres::{Client, Config, NoTls};

use super::Talk;
use crate::vm::GUEST;

fn config() -> Config {
    let mut config = Config::new();
    // A machine that was reset in between says nothing until it is asked.
    config.keepalives(true).keepalives_idle(Duration::from_secs(5));
    config.host(GUEST).user("postgres").dbname("postgres").connect_timeout(Duration::from_secs(10));
    config
}

/// Makes the table that [`Writer`] writes to.
pub fn prepare() -> Result<()> {
    let mut client = config().connect(NoTls).context("cannot reach PostgreSQL")?;
    Ok(client.batch_execute("CREATE TABLE written (n bigint PRIMARY KEY)")?)
}

/// Inserts 0, 1, 2, … each in a transaction of its own, and counts what was committed.
pub struct Writer {
    client: Client,
    committed: Arc<AtomicU64>,
}

impl Writer {
    /// Connects; `committed` counts.
    pub fn connect(committed: Arc<AtomicU64>) -> Result<Self> {
        Ok(Self { client: config().connect(NoTls).context("cannot reach PostgreSQL")?, committed })
    }
}

impl Talk for Writer {
    fn exchange(&mut self, n: u64) -> Result<()> {
        self.client.execute("INSERT INTO written VALUES ($1)", &[&(n as i64)])?;
        self.committed.store(n + 1, Ordering::SeqCst);
        Ok(())
    }
}

/// Fails unless every one of the `committed` rows is there, at most one more (whose answer was lost), and the index agrees.
pub fn verify(committed: u64) -> Result<()> {
    let mut client = config().connect(NoTls).context("cannot reach PostgreSQL")?;
    let rows: i64 = client.query_one("SELECT count(*) FROM written WHERE n < $1", &[&(committed as i64)])?.get(0);
    ensure!(rows as u64 == committed, "{committed} rows were acknowledged, {rows} of them are there");
    let more: i64 = client.query_one("SELECT count(*) FROM written WHERE n >= $1", &[&(committed as i64)])?.get(0);
    ensure!(more <= 1, "{more} rows are there that were never acknowledged");
    client.batch_execute("SET enable_seqscan = off")?;
    let by_index: i64 = client.query_one("SELECT count(*) FROM written WHERE n >= 0", &[])?.get(0);
    ensure!(by_index == rows + more, "the index knows {by_index} rows, the table {}", rows + more);
    Ok(())
}
