//! A child process that runs a program of its own (this one again), talks over pipes and a socketpair, and maps the
//! same memfd.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{getpid, getppid};
use serde_json::{Value, json};

use super::{Item, PATIENCE};
use crate::pattern::word;
use crate::raw::{Words, inherited};

const WORDS: usize = 1024 * 1024 / 8;
const MEMORY_NAME: &CStr = c"kup-testserver";
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// The parent's side.
pub struct Child {
    pid: u32,
    asked: u64,
    questions: ChildStdin,
    answers: ChildStdout,
    socket: UnixStream,
    memory_fd: File,
    memory: Words,
}

impl Child {
    pub fn spawn() -> Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let memory_fd = memfd_create(MEMORY_NAME, MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?;
        let memory_fd = File::from(memory_fd);
        memory_fd.set_len(WORDS as u64 * 8)?;
        fcntl(&memory_fd, FcntlArg::F_ADD_SEALS(SEALS))?;
        let memory = Words::of_file(&memory_fd, WORDS)?;
        // The seals are on the file, close-on-exec is on the descriptor: the child gets duplicates without it.
        let passed = memory_fd.try_clone()?;
        for fd in [theirs.as_fd(), passed.as_fd()] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let mut process = Command::new("/proc/self/exe")
            .args(["child", &theirs.as_raw_fd().to_string(), &passed.as_raw_fd().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let questions = process.stdin.take().context("no pipe to it")?;
        let answers = process.stdout.take().context("no pipe from it")?;
        Ok(Self { pid: process.id(), asked: 0, questions, answers, socket, memory_fd, memory })
    }

    /// Asks the child for one line.
    pub fn ask(&mut self, question: &str) -> Result<String> {
        self.questions.write_all(format!("{question}\n").as_bytes()).context("the pipe to the child")?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        while byte != [b'\n'] {
            let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            ensure!(poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 1, "no answer from the child");
            self.answers.read_exact(&mut byte).context("the pipe from the child")?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8(line)?.trim_end().into())
    }
}

impl Item for Child {
    fn name(&self) -> &'static str {
        "child"
    }

    fn check(&mut self) -> Result<()> {
        self.asked += 1;
        let answer = self.ask("ping")?;
        let expected = format!("pong {} of {} to {}", self.asked, self.pid, getpid());
        ensure!(answer == expected, "answers '{answer}' instead of '{expected}'");

        let text = format!("question {}", self.asked);
        self.socket.write_all(text.as_bytes()).context("socketpair")?;
        let mut echo = vec![0; text.len()];
        self.socket.read_exact(&mut echo).context("socketpair")?;
        ensure!(echo == text.to_uppercase().as_bytes(), "the socketpair brings {:?}", String::from_utf8_lossy(&echo));

        for (i, place) in self.memory.iter().enumerate() {
            place.store(word(self.asked, i as u64), SeqCst);
        }
        let (sum, right) = (self.ask("sum")?, (0..WORDS as u64).fold(0, |s, i| s ^ word(self.asked, i)));
        ensure!(sum == format!("{right:x}"), "the memfd is no longer shared");
        let seals = fcntl(&self.memory_fd, FcntlArg::F_GET_SEALS)?;
        ensure!(seals == SEALS.bits(), "the memfd's seals are {seals:#x} instead of {:#x}", SEALS.bits());
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        Some(json!({ "pid": self.pid }))
    }
}

/// The child's own program: lines in, lines out, until the parent is gone.
pub fn run(socket: &str, memory: &str) -> Result<()> {
    let socket = UnixStream::from(inherited(socket)?);
    let memory = Words::of_file(inherited(memory)?, WORDS)?;
    thread::Builder::new().name("echo".into()).spawn(move || echo(socket))?;
    let mut pings = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("ping", _) => {
                pings += 1;
                format!("pong {pings} of {} to {}", getpid(), getppid())
            }
            ("sum", _) => format!("{:x}", memory.iter().fold(0, |s, w| s ^ w.load(SeqCst))),
            ("lock", path) => holder(path).unwrap_or_else(|e| format!("error {e:#}")),
            _ => format!("error: what is '{line}'?"),
        };
        println!("{answer}");
    }
    Ok(())
}

fn echo(mut socket: UnixStream) {
    let mut text = [0; 256];
    while let Ok(len @ 1..) = socket.read(&mut text) {
        text.make_ascii_uppercase();
        if socket.write_all(&text[..len]).is_err() {
            return;
        }
    }
}

/// Who holds a lock (fcntl) on the file, as a process other than the holder sees it.
fn holder(path: &str) -> Result<String> {
    let file: OwnedFd = OpenOptions::new().read(true).write(true).open(path)?.into();
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    Ok(if lock.l_type == libc::F_UNLCK as libc::c_short {
        "free".into()
    } else {
        format!("{} {} {}", lock.l_pid, lock.l_start, lock.l_len)
    })
}
