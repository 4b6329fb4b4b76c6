//! CRIU, driven over its RPC (`criu swrk`, <https://criu.org/RPC>).

mod log;
mod rpc;
mod swrk;

pub use log::first_error;
pub use rpc::{Action, InheritFd, LockMethod, Options, Response};
pub use swrk::{Answer, Error, Swrk};
