//! Can the boot loader be held at the running kernel until the new one has proven itself?

use crate::boot;
use crate::paths::Paths;
use crate::preflight::Finding;

pub fn ask(paths: &Paths) -> Vec<Finding> {
    match boot::detect(paths) {
        Ok(loader) => loader.findings(),
        Err(e) => vec![
            Finding::blocker("boot.loader", format!("the boot loader cannot be pinned: {e:#}"))
                .fix("boot this machine with GRUB"),
        ],
    }
}
