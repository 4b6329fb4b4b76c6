//! Memory that stays in RAM over the switch (`KUPStorage=ram`): which units want it, what is set aside for them, and how the
//! machine gets it back.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Record, UnitState, bless, memory};
use crate::config::Settings;
use crate::criu::plain;
use crate::inspect;
use crate::kernel::{compare_releases, give_back, modules, regions, taken};
use crate::paths::Paths;
use crate::store::arena::{Arena, Frames};
use crate::store::pmem::Pmem;
use crate::store::ram::Table;
use crate::store::runs::{self, Run};
use crate::systemd::Systemd;
use crate::unit::{self, Fallback, PreserveSpec, Storage, UnitName};

/// How long the new kernel may take to make devices of what came over, after the file systems are there.
const DEVICES_WITHIN: Duration = Duration::from_secs(30);
/// What a unit may grow until it stands still, beside an eighth of it, bytes.
const SLACK: u64 = 16 << 20;

/// What is set aside for an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handed {
    /// The physical memory.
    pub runs: Vec<Run>,
    /// Bytes of it, at most, that the machine does not have back until its next boot, once that is known.
    pub kept_back: Option<u64>,
}

/// Where a unit's memory is to go.
pub fn storage(spec: &PreserveSpec, settings: &Settings) -> Storage {
    spec.storage.unwrap_or(settings.storage)
}

/// What a unit falls back on.
pub fn fallback(spec: &PreserveSpec, settings: &Settings) -> Fallback {
    spec.fallback.unwrap_or(settings.fallback)
}

/// Bytes that have to be set aside for a unit that has `size` bytes now.
pub fn need(size: u64) -> u64 {
    size + size / 8 + SLACK
}

/// Can memory stay in RAM over a switch to kernel `target`?
///
/// # Errors
/// The reason why not.
pub fn possible(paths: &Paths, target: &str) -> Result<()> {
    const SINCE: &str = "6.8";
    if !cfg!(target_arch = "x86_64") {
        bail!("it works on x86-64 only");
    }
    let running = crate::kernel::running(paths)?;
    if compare_releases(&running, SINCE).is_lt() {
        bail!("the running kernel {running} does not say where kexec puts the next one; Linux {SINCE} does");
    }
    if !paths.at(crate::kernel::hugepool::POOL).exists() {
        bail!("the running kernel has no huge pages of 2 MiB");
    }
    let nodes = fs::read_to_string(paths.at("/sys/devices/system/node/has_memory")).unwrap_or_default();
    if nodes.contains([',', '-']) {
        bail!("the machine has several NUMA nodes");
    }
    regions::are_supported(paths, target)
}

/// Sets memory aside for the units of `record` that want it, and loads the target with the words for it. `load` loads it with
/// the words that it gets, and gives the memory that the target's parts will be put to; they go to a command line of `line`
/// bytes. Where no unit gets any, `load` is not called. [`end`] undoes it.
///
/// # Errors
/// Those of `load`; and what is in the way, where a unit wants it so and not otherwise.
pub fn prepare(
    paths: &Paths,
    settings: &Settings,
    record: &mut Record,
    line: usize,
    mut load: impl FnMut(&[String]) -> Result<Vec<Range<u64>>>,
) -> Result<bool> {
    let (mut bytes, mut must) = (0, false);
    for name in record.units_in(UnitState::Running) {
        let storage = storage(&PreserveSpec::of(&unit::load(paths, name)?)?, settings);
        if storage != Storage::Disk {
            bytes += need(inspect::unit(name)?.image_size());
            must |= storage == Storage::Ram;
        }
    }
    if bytes == 0 {
        return Ok(false);
    }
    let set_aside = possible(paths, &record.target.release).and_then(|()| {
        let most = taken::most_runs(line)?;
        taken::Taken::take(paths, bytes)?.settle(most, |runs| load(&taken::words(runs).collect::<Vec<_>>()))
    });
    match set_aside {
        Ok(runs) => {
            let mib = |bytes: u64| bytes >> 20;
            let (all, lost) = (runs.iter().map(|run| run.length).sum(), runs::lost(&runs, taken::block(paths)));
            tracing::info!(
                "{} MiB of RAM in {} ranges go over the switch, {} MiB of it stay lost until the next boot",
                mib(all),
                runs.len(),
                mib(lost)
            );
            record.ram = Some(Handed { runs, kept_back: None });
            Ok(true)
        }
        Err(e) if must => Err(e.context("memory cannot stay in RAM (KUPStorage=ram)")),
        Err(e) => {
            tracing::info!("memory goes over the switch on disk, not in RAM: {e:#}");
            taken::release(paths)?;
            Ok(false)
        }
    }
}

/// The words for a kexec back.
pub fn words(record: &Record) -> Vec<String> {
    record.ram.iter().flat_map(|handed| taken::words(&handed.runs)).collect()
}

/// What was set aside, to be written to.
///
/// # Errors
/// When it is not as it was.
pub fn arena(paths: &Paths, record: &Record) -> Result<Option<Arc<Arena>>> {
    record.ram.as_ref().map(|handed| Ok(Arc::new(taken::open(paths, &handed.runs)?))).transpose()
}

/// What came over the switch. None where nothing was set aside, or this kernel was not told of it: after a reset.
///
/// # Errors
/// When it should be there, and is not.
pub fn frames(paths: &Paths, record: &Record) -> Result<Option<Arc<dyn Frames>>> {
    let Some(handed) = record.ram.as_ref().filter(|handed| regions::are_kept(paths, &handed.runs)) else {
        return Ok(None);
    };
    modules::load(&regions::MODULES);
    let devices = regions::devices(paths, &handed.runs, DEVICES_WITHIN)?;
    Ok(Some(Arc::new(Pmem::open(&handed.runs, &devices)?)))
}

/// Fails where memory of `images` is in RAM alone and that is not `there`.
///
/// # Errors
/// Says so.
pub fn verify(images: &Path, there: &Result<bool, String>) -> Result<()> {
    let path = images.join(plain::RAM);
    if !path.exists() || *there == Ok(true) || Table::decode(&fs::read(path)?)?.copied {
        return Ok(());
    }
    match there {
        Err(e) => bail!("its memory was kept in RAM, which cannot be read: {e}"),
        Ok(_) => bail!("its memory was kept in RAM, and the machine was reset"),
    }
}

/// Gives all of it back, of an update however it ended: in the boot in which it was set aside, or in that to which it came.
///
/// # Errors
/// When something stays that need not. What a kernel does not take back is no error: the next boot has it.
pub fn end(paths: &Paths, record: &mut Record) -> Result<()> {
    let units: Vec<UnitName> = record.units.keys().cloned().collect();
    if let Some(handed) = record.ram.as_mut().filter(|handed| regions::are_kept(paths, &handed.runs)) {
        // A device under a pager is not taken away.
        let given = memory::wait_for(&Systemd::connect()?, &units, bless::MEMORY_WITHIN)
            .and_then(|()| give_back::give_back(paths, &handed.runs));
        match given {
            Ok(kept) => handed.kept_back = Some(kept),
            Err(e) => {
                tracing::error!("memory that was kept over the switch stays aside until the next boot: {e:#}");
                handed.kept_back = Some(handed.runs.iter().map(|run| run.length).sum());
            }
        }
    }
    taken::release(paths).context("huge pages cannot be given back")
}

/// Bytes that this boot does not have back of what the update of `record` has set aside. Another boot, which was not told of
/// it, has all.
pub fn kept_back(paths: &Paths, record: &Record) -> u64 {
    let handed = record.ram.as_ref().filter(|handed| regions::are_kept(paths, &handed.runs));
    handed.and_then(|handed| handed.kept_back).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::TargetKernel;

    const TARGET: &str = "6.12.2";

    fn put(paths: &Paths, path: &str, text: &str) {
        fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
        fs::write(paths.at(path), text).unwrap();
    }

    /// A machine on which it is possible, with `change` made to it.
    fn why_not(change: impl FnOnce(&Paths)) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        put(&paths, "/proc/sys/kernel/osrelease", "6.12.1\n");
        fs::create_dir_all(paths.at(crate::kernel::hugepool::POOL)).unwrap();
        put(&paths, "/sys/devices/system/node/has_memory", "0\n");
        let modules = regions::MODULES.iter().chain(&give_back::MODULES).map(|name| format!("kernel/{name}.ko:\n"));
        put(&paths, &format!("/lib/modules/{TARGET}/modules.dep"), &modules.collect::<String>());
        put(&paths, &format!("/lib/modules/{TARGET}/modules.builtin"), "");
        change(&paths);
        possible(&paths, TARGET).err().map(|e| format!("{e:#}"))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn each_reason_is_named() {
        let says = |why: Option<String>, what: &str| assert!(why.as_ref().is_some_and(|w| w.contains(what)), "{why:?}");
        assert_eq!(why_not(|_| ()), None);
        says(
            why_not(|p| put(p, "/proc/sys/kernel/osrelease", "6.1.0-13-amd64\n")),
            "kernel 6.1.0-13-amd64 does not say",
        );
        assert_eq!(
            why_not(|p| put(p, "/proc/sys/kernel/osrelease", "6.8.0-31-generic\n")),
            None,
            "the first that does"
        );
        says(why_not(|p| fs::remove_dir(p.at(crate::kernel::hugepool::POOL)).unwrap()), "no huge pages");
        for nodes in ["0-1\n", "0,2\n"] {
            says(why_not(|p| put(p, "/sys/devices/system/node/has_memory", nodes)), "several NUMA nodes");
        }
        let unnumbered = |p: &Paths| fs::remove_file(p.at("/sys/devices/system/node/has_memory")).unwrap();
        assert_eq!(why_not(unnumbered), None, "a kernel without NUMA");
        let list = format!("/lib/modules/{TARGET}/modules.dep");
        says(why_not(|p| put(p, &list, "kernel/nd_e820.ko:\n")), "kernel 6.12.2 has no module nd_pmem");
        says(why_not(|p| fs::remove_file(p.at(&list)).unwrap()), "kernel 6.12.2 has no list of its modules");
    }

    #[test]
    fn the_next_boot_has_it_all() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let target = TargetKernel { release: TARGET.into(), image: "/boot/vmlinuz".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "6.12.1".into(), "b".into(), target);
        put(&paths, "/proc/cmdline", "ro memmap=258M!0x7e00000 kup.end\n");
        assert_eq!(kept_back(&paths, &record), 0);
        let runs = vec![Run { start: 0x7e0_0000, length: 258 << 20 }];
        record.ram = Some(Handed { runs, kept_back: None });
        assert_eq!(kept_back(&paths, &record), 0, "not known yet");
        record.ram.as_mut().unwrap().kept_back = Some(2 << 20);
        assert_eq!(kept_back(&paths, &record), 2 << 20);
        put(&paths, "/proc/cmdline", "ro\n");
        assert_eq!(kept_back(&paths, &record), 0);
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[test]
    fn other_machines_are_refused() {
        assert!(why_not(|_| ()).is_some_and(|why| why.contains("x86-64 only")));
    }
}
