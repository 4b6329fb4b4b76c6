//! What lies in the runtime directory, which is new after the switch: the pid file and the control socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Item, PATIENCE};

/// The path of the listening unix socket.
pub fn control_socket(runtime: &Path) -> PathBuf {
    runtime.join("control.sock")
}

/// The pid file, and a connection to this process's own socket that stays open.
pub struct Runtime {
    pid_file: PathBuf,
    socket: PathBuf,
    held: Option<BufReader<UnixStream>>,
}

impl Runtime {
    pub fn new(runtime: &Path) -> Result<Self> {
        let pid_file = runtime.join("testserver.pid");
        fs::write(&pid_file, format!("{}\n", std::process::id()))?;
        Ok(Self { pid_file, socket: control_socket(runtime), held: None })
    }

    fn connect(&self) -> Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(&self.socket).with_context(|| format!("{}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(BufReader::new(stream))
    }
}

fn ping(connection: &mut BufReader<UnixStream>) -> Result<()> {
    connection.get_mut().write_all(b"ping\n")?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    ensure!(line == "pong\n", "answers {line:?}");
    Ok(())
}

impl Item for Runtime {
    fn name(&self) -> &'static str {
        "runtime"
    }

    fn check(&mut self) -> Result<()> {
        let pid = fs::read_to_string(&self.pid_file).with_context(|| format!("{}", self.pid_file.display()))?;
        ensure!(pid.trim() == std::process::id().to_string(), "the pid file says {pid:?}");
        ping(&mut self.connect()?).context("a new connection to the control socket")?;
        // The first check, which the server runs on itself before it says that it is ready, opens the one that stays.
        let mut held = match self.held.take() {
            Some(held) => held,
            None => self.connect()?,
        };
        ping(&mut held).context("the old connection to the control socket")?;
        self.held = Some(held);
        Ok(())
    }
}
