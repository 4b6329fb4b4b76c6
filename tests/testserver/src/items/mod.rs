//! The kinds of state, one file each.

mod allocator;
pub mod child;
mod clocks;
mod files;
mod heap;
mod inotify;
mod locks;
mod log;
mod pipes;
mod polled;
mod process;
mod runtime;
mod signals;
mod threads;
mod timers;
mod twin;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

pub use log::Log;
pub use runtime::control_socket;

use crate::Config;

/// How long an answer from another thread or process may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One kind of state.
pub trait Item: Send {
    /// A short name for `check` and `state`.
    fn name(&self) -> &'static str;

    /// Is it all as it was? May use the state up for a moment, and then leaves it as it was.
    ///
    /// # Errors
    /// What is different.
    fn check(&mut self) -> Result<()>;

    /// What `state` tells about it.
    fn facts(&self) -> Option<Value> {
        None
    }
}

/// Lets locks be the same item for two owners.
impl<T: Item> Item for Arc<Mutex<T>> {
    fn name(&self) -> &'static str {
        self.lock().unwrap_or_else(PoisonError::into_inner).name()
    }

    fn check(&mut self) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).check()
    }

    fn facts(&self) -> Option<Value> {
        self.lock().unwrap_or_else(PoisonError::into_inner).facts()
    }
}

/// Makes all state. The order matters: forks come before threads, and the snapshot of the process comes last.
pub fn all(config: &Config, log: Arc<Log>) -> Result<Vec<Box<dyn Item>>> {
    let signals = signals::Signals::new().context("signals")?;
    process::prepare(config).context("process")?;
    let twin = twin::Twin::fork().context("twin")?;
    let child = Arc::new(Mutex::new(child::Child::spawn().context("child")?));
    Ok(vec![
        Box::new(signals),
        Box::new(twin),
        Box::new(child.clone()),
        Box::new(threads::Threads::start().context("threads")?),
        Box::new(pipes::Pipe::new().context("pipe")?),
        Box::new(pipes::Pair::new().context("socketpair")?),
        Box::new(polled::EventCounter::new().context("eventfd")?),
        Box::new(polled::Epolled::new().context("epoll")?),
        Box::new(timers::Timers::new().context("timers")?),
        Box::new(inotify::Watch::new(&config.state).context("inotify")?),
        Box::new(allocator::Allocator::new(config.allocator_mib).context("allocator")?),
        Box::new(heap::Heap::new(config.heap_mib)),
        Box::new(heap::Discarded::new().context("discard")?),
        Box::new(files::Deleted::new(&config.state).context("deleted-file")?),
        Box::new(locks::Locks::new(&config.state, child).context("locks")?),
        Box::new(log),
        Box::new(runtime::Runtime::new(&config.runtime).context("runtime")?),
        Box::new(clocks::Clocks::start().context("clocks")?),
        Box::new(process::Snapshot::take().context("process")?),
    ])
}
