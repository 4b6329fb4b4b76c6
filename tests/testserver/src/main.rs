//! The test server: it holds every kind of state that a process can have and that an update must carry over, and
//! checks itself on request. It runs as an ordinary hardened service; `kup-testserver.service` is its unit.
//!
//! The environment configures it: `RUNTIME_DIRECTORY` and `STATE_DIRECTORY` as systemd sets them,
//! `KUP_TESTSERVER_PORT` (7070; 0 takes any), `KUP_TESTSERVER_HEAP_MIB` (32) and
//! `KUP_TESTSERVER_ALLOCATOR_MIB` (8). See [`protocol`] for what it answers.

mod items;
mod pattern;
mod protocol;
mod raw;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// Where the server keeps what, and how much of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// For the pid file and the control socket; volatile.
    pub runtime: PathBuf,
    /// For files that stay.
    pub state: PathBuf,
    /// TCP port; 0 takes any free one.
    pub port: u16,
    /// Size of the heap pattern.
    pub heap_mib: usize,
    /// Size of what is allocated and freed again and again.
    pub allocator_mib: usize,
}

impl Config {
    fn from_env() -> Result<Self> {
        Ok(Self {
            runtime: directory("RUNTIME_DIRECTORY")?,
            state: directory("STATE_DIRECTORY")?,
            port: number("KUP_TESTSERVER_PORT", 7070)?,
            heap_mib: number("KUP_TESTSERVER_HEAP_MIB", 32)?,
            allocator_mib: number("KUP_TESTSERVER_ALLOCATOR_MIB", 8)?,
        })
    }
}

/// systemd separates several directories by colons; the first one is ours.
fn directory(variable: &str) -> Result<PathBuf> {
    let value = std::env::var(variable).with_context(|| format!("{variable} is not set"))?;
    Ok(value.split(':').next().unwrap_or_default().into())
}

fn number<T: std::str::FromStr>(variable: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match std::env::var(variable) {
        Ok(value) => value.parse().with_context(|| format!("{variable}={value}")),
        Err(_) => Ok(default),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Config::from_env().and_then(server::run),
        ["child", socket, memory] => items::child::run(socket, memory),
        _ => Err(anyhow::anyhow!("usage: kup-testserver")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kup-testserver: {e:#}");
            ExitCode::FAILURE
        }
    }
}
