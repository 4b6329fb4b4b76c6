//! Commands and files over one shared ssh connection.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::GUEST;
use super::namespace::Namespace;
use crate::sh::{self, Output};

const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// A way into the guest. The connection is opened when it is needed and shared by all commands.
#[derive(Debug)]
pub struct Ssh {
    netns: String,
    socket: PathBuf,
    key: PathBuf,
}

impl Ssh {
    /// For the machine in `net`, which accepts `key`.
    pub fn new(net: &Namespace, key: &Path) -> Self {
        Self { netns: net.name().to_owned(), socket: net.dir().join("ssh.sock"), key: key.to_owned() }
    }

    /// Runs a command with a deadline.
    pub fn run(&self, command: &str, stdin: Option<&[u8]>, limit: Duration) -> Result<Output> {
        self.connect()?;
        let mut ssh = self.base("ssh");
        ssh.arg(format!("root@{GUEST}")).arg("--").arg(command);
        sh::capture(&mut ssh, stdin, Some(limit))
    }

    /// Copies into the guest, with modes.
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        self.connect()?;
        sh::run(self.base("scp").args(["-q", "-r", "-p"]).arg(local).arg(format!("root@{GUEST}:{remote}")))?;
        Ok(())
    }

    /// Copies out of the guest, with modes.
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        self.connect()?;
        sh::run(self.base("scp").args(["-q", "-r", "-p"]).arg(format!("root@{GUEST}:{remote}")).arg(local))?;
        Ok(())
    }

    /// An interactive shell on this terminal.
    pub fn shell(&self) -> Result<()> {
        self.connect()?;
        // Its exit code is that of the last command typed.
        self.base("ssh").arg("-t").arg(format!("root@{GUEST}")).status()?;
        Ok(())
    }

    /// Closes the shared connection, if there is one.
    pub fn drop_connection(&self) {
        if self.socket.exists() {
            let mut exit = self.base("ssh");
            exit.args(["-O", "exit"]).arg(GUEST);
            sh::capture(&mut exit, None, Some(Duration::from_secs(5))).ok();
            std::fs::remove_file(&self.socket).ok();
        }
    }

    /// Opens the shared connection. Not being able to is not an error here: the command itself will say why.
    fn connect(&self) -> Result<()> {
        if self.socket.exists() {
            return Ok(());
        }
        let mut master = self.base("ssh");
        master.args(["-M", "-N", "-f"]).arg(format!("root@{GUEST}"));
        master.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its output is not captured: it stays in the background, and would keep the pipes open.
        let mut child = master.spawn()?;
        sh::wait(&mut child, Some(CONNECT_LIMIT))?;
        Ok(())
    }

    fn base(&self, program: &str) -> Command {
        let mut cmd = Command::new("nsenter");
        cmd.arg(format!("--net=/run/netns/{}", self.netns)).args(["--", program, "-F", "none", "-i"]).arg(&self.key);
        cmd.arg("-o").arg(format!("ControlPath={}", self.socket.display()));
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=30",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
            "ServerAliveCountMax=12",
            "ServerAliveInterval=5",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ] {
            cmd.arg("-o").arg(option);
        }
        cmd
    }
}
