//! A forked copy of this process that shares anonymous memory with it.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::process::exit;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::ForkResult;
use serde_json::{Value, json};

use super::{Item, PATIENCE};
use crate::pattern::word;
use crate::raw::{Words, fork};

const WORDS: usize = 64 * 1024 / 8;

/// The parent's side.
pub struct Twin {
    pid: i32,
    asked: u64,
    memory: Words,
    bell: PipeWriter,
    answers: PipeReader,
}

impl Twin {
    pub fn fork() -> Result<Self> {
        let memory = Words::shared(WORDS)?;
        let ((mut questions, bell), (answers, mut reply)) = (pipe()?, pipe()?);
        let pid = match fork()? {
            ForkResult::Parent { child } => child.as_raw(),
            ForkResult::Child => {
                drop((bell, answers));
                while questions.read_exact(&mut [0]).is_ok() {
                    answer(&memory);
                    if reply.write_all(&[0]).is_err() {
                        break;
                    }
                }
                exit(0)
            }
        };
        Ok(Self { pid, asked: 0, memory, bell, answers })
    }
}

/// Word 0 counts the answers; the rest is that number's pattern.
fn answer(memory: &Words) {
    let count = memory[0].load(SeqCst) + 1;
    for (i, place) in memory.iter().enumerate().skip(1) {
        place.store(word(count, i as u64), SeqCst);
    }
    memory[0].store(count, SeqCst);
}

impl Item for Twin {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn check(&mut self) -> Result<()> {
        let right = |count: u64| {
            let value = |i| if i == 0 { count } else { word(count, i as u64) };
            count == 0 || self.memory.iter().enumerate().all(|(i, w)| w.load(SeqCst) == value(i))
        };
        ensure!(right(self.asked), "the shared memory is not what the twin wrote last");
        self.bell.write_all(&[0]).context("its pipe")?;
        let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
        ensure!(poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? == 1, "no answer");
        self.answers.read_exact(&mut [0]).context("it is gone")?;
        self.asked += 1;
        ensure!(right(self.asked), "the memory is no longer shared");
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        Some(json!({ "pid": self.pid }))
    }
}
