//! The D-Bus side: kupd's interfaces, the clients' proxies, and what both need of systemd and polkit.
//!
//! `org.kup1` on the system bus, activated on demand:
//!
//! | path | interface |
//! | --- | --- |
//! | `/org/kup1` | `org.kup1.Manager` |
//! | `/org/kup1/update/ID` | `org.kup1.Update`: the update that is under way, or the last one |
//! | `/org/freedesktop/LogControl1` | `org.freedesktop.LogControl1` |

mod auth;
mod begin;
mod daemon;
mod error;
mod kernels;
mod log;
mod manager;
mod marks;
mod options;
pub mod proxy;
mod systemd;
mod track;
mod types;
mod update;
mod view;

pub use daemon::{Daemon, IDLE};
pub use error::Error;
pub use log::Logs;
pub use types::{CheckAnswer, FindingEntry, UnitEntry};
pub use view::UpdateView;

use std::future::{Future, poll_fn};
use std::pin::Pin;

use futures_core::Stream;

/// Well-known bus name.
pub const NAME: &str = "org.kup1";
/// Path of the manager object.
pub const PATH: &str = "/org/kup1";
/// Path that stands for "no object".
pub const NO_OBJECT: &str = "/";

/// The next item of `stream`; `None` once it has ended.
pub fn next<S: Stream + Unpin>(stream: &mut S) -> impl Future<Output = Option<S::Item>> + '_ {
    poll_fn(move |cx| Pin::new(&mut *stream).poll_next(cx))
}
