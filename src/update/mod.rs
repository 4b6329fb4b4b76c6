//! One update: its state machine, its record on disk, and the steps that move it.

pub(crate) mod affinity;
pub mod arm;
pub mod bless;
mod carry;
pub mod checkpoint;
mod dump_unit;
pub(crate) mod history;
mod id;
mod lock;
mod meeting;
mod record;
pub mod restore;
mod restore_unit;
pub mod settle;
mod state;
pub(crate) mod timers;
pub mod undo;

pub use history::{History, HistoryLine};
pub use id::{BadUpdateId, UpdateId};
pub use lock::Lock;
pub use record::{Carried, ExternalFile, Phase, Pin, Record, RecordError, TargetKernel, UnitRecord, now_usec};
pub use state::{Event, Illegal, State, UnitState};
pub use timers::ExpiredTimer;
