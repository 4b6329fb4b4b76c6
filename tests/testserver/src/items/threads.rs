//! Threads, each with a thread-local value and a counter, each asleep in another system call.

use std::cell::Cell;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;
use serde_json::{Value, json};

use super::{Item, PATIENCE};
use crate::pattern::word;

thread_local! {
    static OWN: Cell<u64> = const { Cell::new(0) };
    static ANSWERS: Cell<u64> = const { Cell::new(0) };
}

/// What a thread says of itself.
#[derive(Debug, PartialEq)]
struct Answer {
    tid: i32,
    own: u64,
    answers: u64,
}

/// The system call that a thread waits for its next question in.
enum Bed {
    Futex(Receiver<()>),
    Read(PipeReader),
    Poll(PipeReader),
    Nap(Arc<AtomicBool>),
    Condition(Arc<(Mutex<bool>, Condvar)>),
}

/// The other end of a [`Bed`].
enum Bell {
    Futex(Sender<()>),
    Pipe(PipeWriter),
    Nap(Arc<AtomicBool>),
    Condition(Arc<(Mutex<bool>, Condvar)>),
}

impl Bed {
    /// Waits for a question; `false` ends the thread.
    fn sleep(&mut self) -> bool {
        match self {
            Bed::Futex(bell) => loop {
                match bell.recv_timeout(Duration::from_millis(250)) {
                    Ok(()) => return true,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            },
            Bed::Read(pipe) => pipe.read_exact(&mut [0]).is_ok(),
            Bed::Poll(pipe) => {
                let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                while let Err(nix::errno::Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
                pipe.read_exact(&mut [0]).is_ok()
            }
            Bed::Nap(rung) => {
                while !rung.swap(false, Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
                true
            }
            Bed::Condition(rung) => {
                let guard = rung.0.lock().unwrap_or_else(PoisonError::into_inner);
                let guard = rung.1.wait_while(guard, |rung| !*rung);
                *guard.unwrap_or_else(PoisonError::into_inner) = false;
                true
            }
        }
    }
}

impl Bell {
    fn ring(&mut self) -> Result<()> {
        match self {
            Bell::Futex(bell) => bell.send(()).map_err(|_| anyhow!("it is gone")),
            Bell::Pipe(pipe) => pipe.write_all(&[0]).context("its pipe"),
            Bell::Nap(rung) => {
                rung.store(true, Ordering::SeqCst);
                Ok(())
            }
            Bell::Condition(rung) => {
                *rung.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                rung.1.notify_one();
                Ok(())
            }
        }
    }
}

struct Thread {
    name: String,
    bell: Bell,
    answers: Receiver<Answer>,
    expected: Answer,
}

impl Thread {
    fn start(number: u64, name: &str, bell: Bell, mut bed: Bed) -> Result<Self> {
        let (sender, answers) = channel();
        let body = move || {
            OWN.set(word(number, 0));
            loop {
                let answer = Answer { tid: gettid().as_raw(), own: OWN.get(), answers: ANSWERS.get() };
                ANSWERS.set(answer.answers + 1);
                if sender.send(answer).is_err() || !bed.sleep() {
                    return;
                }
            }
        };
        thread::Builder::new().name(name.into()).spawn(body)?;
        let mut expected = answers.recv_timeout(PATIENCE)?;
        expected.answers += 1;
        Ok(Self { name: name.into(), bell, answers, expected })
    }

    fn check(&mut self) -> Result<()> {
        self.bell.ring()?;
        let answer = self.answers.recv_timeout(PATIENCE).context("no answer")?;
        ensure!(answer == self.expected, "answers {answer:?} instead of {:?}", self.expected);
        self.expected.answers += 1;
        let comm = fs::read_to_string(format!("/proc/self/task/{}/comm", answer.tid))?;
        ensure!(comm.trim_end() == self.name, "is called {}", comm.trim_end());
        Ok(())
    }
}

/// All of them.
pub struct Threads(Vec<Thread>);

impl Threads {
    pub fn start() -> Result<Self> {
        let (futex_bell, futex_bed) = channel();
        let (read_bed, read_bell) = pipe()?;
        let (poll_bed, poll_bell) = pipe()?;
        let nap = Arc::new(AtomicBool::new(false));
        let condition = Arc::new((Mutex::new(false), Condvar::new()));
        Ok(Self(vec![
            Thread::start(1, "in-futex", Bell::Futex(futex_bell), Bed::Futex(futex_bed))?,
            Thread::start(2, "in-read", Bell::Pipe(read_bell), Bed::Read(read_bed))?,
            Thread::start(3, "in-poll", Bell::Pipe(poll_bell), Bed::Poll(poll_bed))?,
            Thread::start(4, "in-nanosleep", Bell::Nap(nap.clone()), Bed::Nap(nap))?,
            Thread::start(5, "in-condition", Bell::Condition(condition.clone()), Bed::Condition(condition))?,
        ]))
    }
}

impl Item for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|t| t.check().with_context(|| format!("thread {}", t.name)))
    }

    fn facts(&self) -> Option<Value> {
        Some(self.0.iter().map(|t| (t.name.clone(), json!(t.expected.tid))).collect())
    }
}
