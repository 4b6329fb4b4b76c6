//! kup: kernel updates that running services live through.
//!
//! One update is one transaction (`docs/` and `update::state` tell it in full):
//!
//! ```text
//! package hook ──> stage                         (kupd, nothing is loaded)
//! kup update  ──> check ──> arm                  (kup-worker update)
//! systemctl kexec ──> checkpoint ──> switch      (kup-worker checkpoint, as kup-checkpoint.service is stopped)
//! new kernel  ──> generator ──> netlock ──> restore ──> bless
//! ```
//!
//! The pure parts (parsers, the state machine, the record, the generator) know nothing of the machine they run on:
//! every path comes from [`paths::Paths`], so that they are tested on directory trees without root.
//!
//! The message of an error says its cause as well. The cause is a field of that name, and no `source`: where errors are
//! printed with all that led to them (`{:#}`), it would come twice.

pub mod boot;
pub mod bus;
pub mod cli;
pub mod command;
pub mod config;
pub mod criu;
pub mod faults;
#[doc(hidden)]
pub mod fuzz;
pub mod generator;
pub mod inspect;
pub mod journal;
pub mod kernel;
pub mod net;
pub mod packages;
pub mod pager;
pub mod paths;
pub mod preflight;
pub mod request;
pub mod store;
pub mod sys;
pub mod systemd;
pub mod unit;
pub mod update;
pub mod watchdog;
pub mod worker;
