//! One update: its state machine, its record on disk, and the steps that move it.

mod history;
mod id;
mod lock;
mod record;
mod state;

pub use history::{History, HistoryLine};
pub use id::{BadUpdateId, UpdateId};
pub use lock::Lock;
pub use record::{Carried, ExternalFile, Phase, Pin, Record, RecordError, TargetKernel, UnitRecord, now_usec};
pub use state::{Event, Illegal, State, UnitState};
