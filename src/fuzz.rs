//! Doors for `tests/fuzz` to parsers that are nobody else's business. No interface: they change as they have to.

pub use crate::boot::grub::{env::parse as grubenv, menu};
pub use crate::criu::{
    log::pick as criu_log,
    mm::{lazy_in as lazy, wiped_on_fork},
    rpc::Response,
    swrk::Said,
};
pub use crate::inspect::{
    diag::answers,
    fds::{anonymous, fdinfo},
    host::directory,
    inet::{parse as inet, transformed},
    maps::parse as maps,
    process::{stat, status},
    smaps::parse as smaps,
    unix::answered,
};
pub use crate::store::index::body as foam_index;
pub use crate::unit::parse::{Assignment, parse as unit_file};
pub use crate::update::{affinity::parse as cpus, history::addition, timers::parse as timer};
