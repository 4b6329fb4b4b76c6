//! Can the boot loader be held at the running kernel until the new one has proven itself?

use crate::boot;
use crate::paths::Paths;
use crate::preflight::Finding;

pub fn ask(paths: &Paths) -> Vec<Finding> {
    boot::findings(paths)
}
