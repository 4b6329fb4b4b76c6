//! One long, rate-limited download from nginx.

use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use sha2::{Digest, Sha256};

use super::Connection;
use crate::vm::namespace::Namespace;

/// A download under way.
#[derive(Debug)]
pub struct Download {
    thread: JoinHandle<Result<Result<String>>>,
}

impl Download {
    /// Starts to fetch `path`.
    pub fn start(peer: &Namespace, path: &str) -> Result<Self> {
        let request = format!("GET {path} HTTP/1.0\r\nHost: kup-lab\r\n\r\n");
        Ok(Self { thread: peer.spawn(move || fetch(&request))? })
    }

    /// Is it still under way?
    pub fn runs(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for its end; gives the SHA-256 of the body.
    pub fn finish(self) -> Result<String> {
        let end = self.thread.join().map_err(|_| anyhow!("the download's thread panicked"))?;
        end?.context("the download from nginx")
    }
}

fn fetch(request: &str) -> Result<String> {
    let mut connection = Connection::open(80)?;
    connection.send(request.as_bytes())?;
    let status = connection.line()?;
    ensure!(status.contains(" 200 "), "nginx answers {status:?}");
    let mut length = None;
    loop {
        let line = connection.line()?;
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>()?);
        }
    }
    let (mut sum, mut received) = (Sha256::new(), 0);
    connection.rest(|bytes| {
        sum.update(bytes);
        received += bytes.len();
    })?;
    ensure!(length == Some(received), "{received} bytes came, nginx had announced {length:?}");
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
