//! Units: their names, their files as systemd merges them, and the mark that asks kup to preserve them.

mod adjust;
mod error;
mod index;
mod load;
pub mod mark;
mod name;
pub(crate) mod parse;
pub mod preserve;
mod tree;

pub use adjust::{Adjustment, PLACEHOLDER, Refusal, adjustments, refusals};
pub use error::UnitError;
pub use load::{GENERATED, UnitFile, Value, load};
pub use name::{BadUnitName, UnitName};
pub use preserve::{Adjust, Fallback, Marked, Origin, PreserveSpec, Storage, marked, scan};
