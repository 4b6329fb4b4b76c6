//! CRIU, driven over its RPC (`criu swrk`, <https://criu.org/RPC>).

mod dump;
pub mod image;
pub(crate) mod log;
pub(crate) mod mm;
pub mod page_server;
pub mod pagemap;
pub mod plain;
pub mod pstree;
mod restore;
pub(crate) mod rpc;
pub(crate) mod swrk;
pub mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

pub use dump::{Dump, Externals};
pub use log::first_error;
pub use page_server::{PageError, PageServer};
pub use restore::Restore;
pub use swrk::{Error, Swrk};

use crate::kernel::modules;

/// Name of the log that a dump leaves beside its images.
pub const DUMP_LOG: &str = "dump.log";
/// Name of the log that a restore leaves beside the images.
pub const RESTORE_LOG: &str = "restore.log";

/// What CRIU asks about sockets and network devices with.
pub const MODULES: [&str; 9] =
    ["unix_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag", "inet_diag", "tun", "veth"];

/// The installed CRIU; `None` where there is none.
pub fn program() -> Option<PathBuf> {
    ["/usr/sbin/criu", "/usr/bin/criu", "/usr/local/sbin/criu"].iter().map(PathBuf::from).find(|p| p.exists())
}

/// Has CRIU find out once what this kernel can do; it keeps that in /run/criu.kdat. A CRIU that has to find it out inside a
/// unit's sandbox looks at files below /proc/sys that ProcSubset=pid hides, and gives up ("Can't open sysctl
/// kernel/cap_last_cap").
pub fn warm() {
    let Some(program) = program() else { return };
    // Meanwhile, and in one go: CRIU would have the kernel load one after the other, and wait for each.
    let modules = thread::spawn(|| modules::load(&MODULES));
    // What it says is of no interest: it is about features that no unit may need.
    if let Err(e) =
        Command::new(program).arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    {
        tracing::warn!("criu check: {e}");
    }
    let _ = modules.join();
}

/// The error of a conversation with CRIU, made better by what its log says.
fn explain(error: Error, log: &Path) -> Error {
    match (error, first_error(log)) {
        (Error::Refused { errno, .. }, Some(line)) => Error::Refused { message: line, errno },
        (Error::Died(status), Some(line)) => Error::Died(format!("{status}; {line}")),
        (e, _) => e,
    }
}
