//! Kernels: which are installed, which one is next, what it is told, and how it is loaded.

pub mod cmdline;
pub mod give_back;
pub mod handover;
pub mod hugepool;
pub mod initrd;
mod installed;
pub mod kexec;
pub mod meminfo;
pub mod modules;
pub mod panic;
mod pids;
pub mod regions;
pub mod segments;
mod staged;
pub mod taken;
mod target;
mod version;

pub use installed::{BadRelease, Installed, boot_id, check_release, discover, running};
pub use pids::{PID_MAX, pid_floor};
pub use staged::Staged;
pub use target::{NoTarget, choose_target};
pub use version::compare_releases;
