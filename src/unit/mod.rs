//! Units: their names, their files as systemd merges them, and the mark that asks kup to preserve them.

mod name;

pub use name::{BadUnitName, UnitName};
