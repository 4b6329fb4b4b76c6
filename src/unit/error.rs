//! Why a unit could not be read.

use std::io;
use std::path::PathBuf;

use super::UnitName;

/// What is wrong with a unit's files.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// No file of that name in the search path.
    #[error("unit {unit} does not exist: no file of that name in systemd's search path")]
    NotFound {
        /// The name that was asked for.
        unit: UnitName,
    },
    /// Linked to /dev/null, or empty.
    #[error("unit {unit} is masked by {by}; 'systemctl unmask {unit}' takes that back")]
    Masked {
        /// The name that was asked for.
        unit: UnitName,
        /// The link or the empty file.
        by: PathBuf,
    },
    /// Links between unit names that lead nowhere.
    #[error("unit {unit} is an alias that leads in a circle")]
    AliasLoop {
        /// The name that was asked for.
        unit: UnitName,
    },
    /// A switch that is neither on nor off.
    #[error("{file}:{line}: {key}={value} of {unit} is no boolean; write yes or no")]
    NotBoolean {
        /// The unit that the file belongs to.
        unit: UnitName,
        /// The key.
        key: String,
        /// What stands behind it.
        value: String,
        /// The file.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: u32,
    },
    /// A word that the key does not know.
    #[error("{file}:{line}: {key}={value} of {unit} is not understood; known are: {known}")]
    UnknownWord {
        /// The unit that the file belongs to.
        unit: UnitName,
        /// The key.
        key: String,
        /// The word.
        value: String,
        /// The words that the key knows.
        known: &'static str,
        /// The file.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: u32,
    },
    /// A section header without its bracket: systemd does not load such a unit.
    #[error("{file}:{line}: section header without ']'; systemd does not load unit {unit}")]
    BrokenSection {
        /// The unit that the file belongs to.
        unit: UnitName,
        /// The file.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: u32,
    },
    /// A file that is there and cannot be read.
    #[error("cannot read {path}: {cause}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}
