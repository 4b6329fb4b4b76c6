//! Preflight: what can be preserved on this machine, and why not where not. One file per question.

mod finding;

pub use finding::{Finding, Report, Severity};
