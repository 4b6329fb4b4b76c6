//! An eventfd with a value, and an epoll that watches several descriptors.

use std::collections::BTreeSet;
use std::io::{PipeReader, PipeWriter, Write, pipe};

use anyhow::{Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Item;

const VALUE: u64 = 0x1234_5678;

/// An eventfd whose value was not read.
pub struct EventCounter(EventFd);

impl EventCounter {
    pub fn new() -> Result<Self> {
        Ok(Self(EventFd::from_value_and_flags(VALUE as u32, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?))
    }
}

impl Item for EventCounter {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn check(&mut self) -> Result<()> {
        let value = self.0.read()?;
        self.0.write(VALUE)?;
        ensure!(value == VALUE, "its value is {value:#x} instead of {VALUE:#x}");
        Ok(())
    }
}

/// An epoll with two descriptors that are ready and two that are not.
pub struct Epolled {
    epoll: Epoll,
    ready: EventFd,
    idle: EventFd,
    _full: (PipeReader, PipeWriter),
    _empty: (PipeReader, PipeWriter),
}

const READY: u64 = 0xfeed_0000_0000_0001;
const IDLE: u64 = 0xfeed_0000_0000_0002;
const FULL: u64 = 0xfeed_0000_0000_0003;
const EMPTY: u64 = 0xfeed_0000_0000_0004;

impl Epolled {
    pub fn new() -> Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (ready, idle) = (EventFd::from_value_and_flags(1, flags)?, EventFd::from_value_and_flags(0, flags)?);
        let (mut full, empty) = (pipe()?, pipe()?);
        full.1.write_all(b"unread")?;
        epoll.add(&ready, EpollEvent::new(EpollFlags::EPOLLIN, READY))?;
        epoll.add(&idle, EpollEvent::new(EpollFlags::EPOLLIN, IDLE))?;
        epoll.add(&full.0, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, FULL))?;
        epoll.add(&empty.0, EpollEvent::new(EpollFlags::EPOLLIN, EMPTY))?;
        Ok(Self { epoll, ready, idle, _full: full, _empty: empty })
    }

    fn now(&self) -> Result<BTreeSet<u64>> {
        let mut events = [EpollEvent::empty(); 8];
        let len = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        Ok(events[..len].iter().map(EpollEvent::data).collect())
    }
}

impl Item for Epolled {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn check(&mut self) -> Result<()> {
        let (found, right) = (self.now()?, BTreeSet::from([READY, FULL]));
        ensure!(found == right, "{found:x?} are ready instead of {right:x?}");
        // It must notice changes too, not only know what was so before.
        self.ready.read()?;
        self.idle.write(1)?;
        let (found, right) = (self.now()?, BTreeSet::from([IDLE, FULL]));
        self.idle.read()?;
        self.ready.write(1)?;
        ensure!(found == right, "after a change {found:x?} are ready instead of {right:x?}");
        Ok(())
    }
}
