//! Memory that came over the switch becomes ordinary memory again, once nobody needs what is stored in it.
//!
//! Its block device goes; the namespace becomes a device of its own kind (dax), and that is added to the machine's memory
//! (kmem), as whole blocks. See admin-guide/mm/memory-hotplug.rst and Documentation/ABI/testing/sysfs-bus-nvdimm.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::modules;
use super::regions::{self, Region};
use super::taken::{self, total};
use crate::paths::Paths;
use crate::store::runs::{self, Run};

/// What makes ordinary memory of it.
pub const MODULES: [&str; 3] = ["dax_pmem", "device_dax", "kmem"];

/// Gives `runs` back; gives how many bytes did not become ordinary memory.
///
/// # Errors
/// What could not be done for one of them; the others are given back all the same. The next boot has all of it.
pub fn give_back(paths: &Paths, runs: &[Run]) -> Result<u64> {
    modules::load(&MODULES);
    let (before, block) = (total(paths)?, taken::block(paths));
    // Of a range without a whole block nothing would come back.
    let given = runs
        .iter()
        .filter(|run| run.returned(block) > 0)
        .map(|run| one(paths, run).with_context(|| format!("at {:#x}", run.start)));
    let given = given.collect::<Vec<_>>().into_iter().collect::<Result<Vec<()>>>();
    online(paths, runs);
    let all = runs.iter().map(|run| run.length).sum::<u64>();
    let kept = all.saturating_sub(total(paths)?.saturating_sub(before));
    tracing::info!(
        "{} of {} MiB that came over the switch are ordinary memory again; {} MiB are lost to alignment until the next boot",
        all.saturating_sub(kept) >> 20,
        all >> 20,
        runs::lost(runs, block) >> 20
    );
    given.map(|_| kept)
}

/// Walks one range from a block device to memory. What was done already is not done again.
fn one(paths: &Paths, run: &Run) -> Result<()> {
    let Region { namespace, dir, .. } = regions::find(paths, run).context("it is no range that this kernel kept")?;
    let put = |path: &Path, text: &str| {
        fs::write(path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    };
    let nd = paths.at("/sys/bus/nd/drivers");
    if nd.join("nd_pmem").join(&namespace).exists() {
        put(&nd.join("nd_pmem/unbind"), &namespace)?;
    }
    let seed = fs::read_to_string(dir.join("dax_seed")).context("it has no seed for a dax device")?;
    let (seed, id) = (seed.trim(), fs::read_to_string(paths.at("/proc/sys/kernel/random/uuid"))?);
    for (name, text) in [("align", "2097152"), ("uuid", id.trim()), ("mode", "ram"), ("namespace", &namespace)] {
        put(&dir.join(seed).join(name), text)?;
    }
    put(&nd.join("dax_pmem/bind"), seed)?;
    let dax = paths.at("/sys/bus/dax/drivers");
    if dax.join("device_dax").join(seed).exists() {
        put(&dax.join("device_dax/unbind"), seed)?;
    }
    put(&dax.join("kmem/new_id"), seed)
}

/// Has the blocks used that the kernel only knows of so far. Most kernels do that by themselves.
fn online(paths: &Paths, runs: &[Run]) {
    let (block, memory) = (taken::block(paths), paths.at("/sys/devices/system/memory"));
    for run in runs {
        for number in run.start / block..(run.start + run.length).div_ceil(block) {
            let state = memory.join(format!("memory{number}/state"));
            if fs::read_to_string(&state).is_ok_and(|state| state.trim() == "offline") {
                let _ = fs::write(&state, "online").inspect_err(|e| tracing::warn!("{}: {e}", state.display()));
            }
        }
    }
}
