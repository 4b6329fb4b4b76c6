//! Ranges of memory that a kernel was told to keep for us (`memmap=SIZE!ADDRESS`), as it shows them: a namespace of a
//! non-volatile memory bus, and on it a block device.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::modules::{Shipped, shipped};
use super::{cmdline, taken};
use crate::paths::Paths;
use crate::store::runs::Run;

/// All namespaces.
const NAMESPACES: &str = "/sys/bus/nd/devices";
/// What makes block devices of them.
pub const MODULES: [&str; 2] = ["nd_e820", "nd_pmem"];
const POLL: Duration = Duration::from_millis(20);

/// One range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Name of its namespace, `namespace0.0`.
    pub namespace: String,
    /// Directory of the region that the namespace is in.
    pub dir: PathBuf,
    /// Its block device, while it is one.
    pub device: Option<PathBuf>,
}

/// Was this kernel told to keep `runs`? After a reset it was not: they are ordinary memory then.
pub fn are_kept(paths: &Paths, runs: &[Run]) -> bool {
    let line = fs::read_to_string(paths.cmdline()).unwrap_or_default();
    let told = cmdline::split(&line);
    !runs.is_empty() && taken::words(runs).all(|word| told.contains(&word.as_str()))
}

/// The range at `run`, if it is there by now.
pub fn find(paths: &Paths, run: &Run) -> Option<Region> {
    fs::read_dir(paths.at(NAMESPACES)).ok()?.flatten().find_map(|entry| {
        let namespace = entry.file_name().into_string().ok().filter(|name| name.starts_with("namespace"))?;
        let start = number(&entry.path().join("resource")).filter(|start| *start == run.start)?;
        tracing::trace!("{namespace} is at {start:#x}");
        let device = fs::read_dir(entry.path().join("block")).ok().and_then(|mut dir| dir.next()?.ok());
        let device = device.map(|device| paths.at("/dev").join(device.file_name()));
        let dir = fs::canonicalize(entry.path()).ok()?.parent()?.to_path_buf();
        Some(Region { namespace, dir, device })
    })
}

/// The block devices of `runs`, once they are there.
///
/// # Errors
/// When one is not there by `within`.
pub fn devices(paths: &Paths, runs: &[Run], within: Duration) -> Result<Vec<PathBuf>> {
    let deadline = Instant::now() + within;
    runs.iter()
        .map(|run| {
            loop {
                match find(paths, run).and_then(|region| region.device).filter(|device| device.exists()) {
                    Some(device) => return Ok(device),
                    None if Instant::now() > deadline => bail!("the memory at {:#x} is no device", run.start),
                    None => std::thread::sleep(POLL),
                }
            }
        })
        .collect()
}

/// Can kernel `release` make block devices of what it keeps, and ordinary memory of those?
///
/// # Errors
/// Names the module that is missing.
pub fn are_supported(paths: &Paths, release: &str) -> Result<()> {
    for module in MODULES.iter().chain(&super::give_back::MODULES) {
        let shipped = shipped(paths, release, module);
        if shipped.with_context(|| format!("kernel {release} has no list of its modules"))? == Shipped::Missing {
            bail!("kernel {release} has no module {module}");
        }
    }
    Ok(())
}

/// A number as sysfs shows it.
fn number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(paths: &Paths, path: &str, text: &str) {
        fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
        fs::write(paths.at(path), text).unwrap();
    }

    #[test]
    fn ranges_are_found_by_their_address() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let runs = [Run { start: 0x7e0_0000, length: 258 << 20 }];
        assert!(!are_kept(&paths, &runs) && find(&paths, &runs[0]).is_none());
        put(&paths, "/proc/cmdline", "ro memmap=258M!0x7e00000 kup.end\n");
        assert!(are_kept(&paths, &runs) && !are_kept(&paths, &[]));
        put(&paths, "/sys/devices/region1/namespace1.0/resource", "0x7e00000\n");
        fs::create_dir_all(paths.at(NAMESPACES)).unwrap();
        let link = paths.at(NAMESPACES).join("namespace1.0");
        std::os::unix::fs::symlink(paths.at("/sys/devices/region1/namespace1.0"), link).unwrap();
        let region = find(&paths, &runs[0]).unwrap();
        assert!(region.dir.ends_with("region1") && region.device.is_none());
        assert!(devices(&paths, &runs, Duration::ZERO).is_err());
        fs::create_dir_all(paths.at("/sys/devices/region1/namespace1.0/block/pmem1")).unwrap();
        put(&paths, "/dev/pmem1", "");
        assert_eq!(devices(&paths, &runs, Duration::ZERO).unwrap(), [paths.at("/dev/pmem1")]);
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert!(are_supported(&paths, "1").is_err());
        put(&paths, "/lib/modules/1/modules.builtin", "kernel/drivers/dax/dax.ko\n");
        let all = "kernel/drivers/nvdimm/nd_e820.ko.xz: kernel/drivers/nvdimm/libnvdimm.ko.xz\nkernel/drivers/nvdimm/nd_pmem.ko.xz:\n\
                   kernel/drivers/dax/pmem/dax_pmem.ko.xz:\nkernel/drivers/dax/device_dax.ko.xz:\n";
        put(&paths, "/lib/modules/1/modules.dep", all);
        assert!(are_supported(&paths, "1").unwrap_err().to_string().contains("no module kmem"));
        put(&paths, "/lib/modules/1/modules.dep", &format!("{all}kernel/drivers/dax/kmem.ko.xz:\n"));
        are_supported(&paths, "1").unwrap();
    }
}
