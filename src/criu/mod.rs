//! CRIU, driven over its RPC (`criu swrk`, <https://criu.org/RPC>).

mod dump;
pub(crate) mod log;
mod restore;
pub(crate) mod rpc;
pub(crate) mod swrk;

use std::path::{Path, PathBuf};

pub use dump::{Dump, Externals};
pub use log::first_error;
pub use restore::Restore;
pub use swrk::{Error, Swrk};

/// Name of the log that a dump leaves beside its images.
pub const DUMP_LOG: &str = "dump.log";
/// Name of the log that a restore leaves beside the images.
pub const RESTORE_LOG: &str = "restore.log";

/// The installed CRIU; `None` where there is none.
pub fn program() -> Option<PathBuf> {
    ["/usr/sbin/criu", "/usr/bin/criu", "/usr/local/sbin/criu"].iter().map(PathBuf::from).find(|p| p.exists())
}

/// The error of a conversation with CRIU, made better by what its log says.
fn explain(error: Error, log: &Path) -> Error {
    match (error, first_error(log)) {
        (Error::Refused { errno, .. }, Some(line)) => Error::Refused { message: line, errno },
        (Error::Died(status), Some(line)) => Error::Died(format!("{status}; {line}")),
        (e, _) => e,
    }
}
