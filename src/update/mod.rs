//! One update: its state machine, its record on disk, and the steps that move it.

pub(crate) mod affinity;
pub mod arm;
mod ballast;
pub mod bless;
mod carry;
pub mod checkpoint;
mod dump_unit;
pub mod encryption;
pub mod fall_back;
pub(crate) mod history;
mod id;
mod lock;
mod manifest;
mod meeting;
pub mod memory;
mod precopy;
pub mod ram;
mod record;
pub mod recover;
pub mod restore;
mod restore_all;
mod restore_unit;
pub mod settle;
mod state;
mod this_boot;
pub(crate) mod timers;
mod trial;
pub mod undo;

pub use history::{History, HistoryLine};
pub use id::{BadUpdateId, UpdateId};
pub use lock::Lock;
pub use record::{Carried, ExternalFile, Phase, Pin, Record, RecordError, TargetKernel, UnitRecord, now_usec};
pub use state::{Event, Illegal, State, UnitState};
pub use this_boot::ThisBoot;
pub use timers::ExpiredTimer;
