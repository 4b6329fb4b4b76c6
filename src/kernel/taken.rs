//! Huge pages that are taken at update time and handed over the switch with what is stored in them.
//!
//! The target is told of them on its command line (`memmap=SIZE!ADDRESS`, kernel-parameters.txt) and makes a block device
//! of each range. Nothing is reserved before; what is not handed over goes back at once.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FallocateFlags, fallocate};

use super::hugepool::Share;
use super::{cmdline, meminfo};
use crate::paths::Paths;
use crate::store::arena::Arena;
use crate::store::runs::{self, Run};
use crate::sys::hugepage::{Pages, SIZE};

/// Whose huge pages they are.
const USER: &str = "memory";
/// However much room there is on the command line.
const MOST_RUNS: usize = 24;
/// What a range takes of the command line, at most, bytes: memory is below 64 TiB on machines with four levels of pages.
const RANGE: usize = "67108864M!0x3ffffffff000,".len();
/// How much memory is left to the machine while pages are chosen, bytes.
const SPARE: u64 = 192 << 20;
/// How many blocks more than are needed are looked at to find whole ones.
const MORE_BLOCKS: u64 = 8;
/// At most this share of the machine's memory may stay lost until the next boot.
const MOST_LOST: u64 = 8;
/// How often ranges are chosen anew because the target's parts would be put there.
const TRIES: usize = 4;

/// Pages that were taken, of which some will be handed over.
#[derive(Debug)]
pub struct Taken<'a> {
    paths: &'a Paths,
    file: File,
    /// Physical address of each.
    addresses: Vec<u64>,
    /// Bytes that are to be stored.
    need: u64,
}

/// How much memory comes and goes at a time, bytes.
pub fn block(paths: &Paths) -> u64 {
    let text = fs::read_to_string(paths.at("/sys/devices/system/memory/block_size_bytes")).unwrap_or_default();
    u64::from_str_radix(text.trim(), 16).ok().filter(|block| *block > 0).unwrap_or(128 << 20)
}

/// Memory that nobody would miss, bytes.
///
/// # Errors
/// When /proc is not mounted.
pub fn available(paths: &Paths) -> Result<u64> {
    meminfo::read(paths, "MemAvailable")
}

/// The machine's ordinary memory, bytes.
///
/// # Errors
/// When /proc is not mounted.
pub fn total(paths: &Paths) -> Result<u64> {
    meminfo::read(paths, "MemTotal")
}

/// What has to be available to store `need` bytes, and have `beside` for all else that the update does.
pub fn wanted(need: u64, beside: u64) -> u64 {
    need.saturating_add(2 * SIZE).saturating_add(beside.max(SPARE))
}

/// How many ranges a command line of so many bytes has room for beside what it says already.
///
/// # Errors
/// When there is room for none; with the way out.
pub fn most_runs(line: usize) -> Result<usize> {
    // What may be added with them: see cmdline::make.
    let taken = line + " memmap= nokaslr".len();
    match cmdline::MAX.saturating_sub(taken) / RANGE {
        0 => bail!(
            "the target's command line, {line} of {} bytes, has no room to say where memory is; shorten it where the boot \
             loader has it from and reboot once",
            cmdline::MAX
        ),
        runs => Ok(runs.min(MOST_RUNS)),
    }
}

impl<'a> Taken<'a> {
    /// Takes enough for `need` bytes.
    ///
    /// # Errors
    /// When there is too little. [`release`] undoes what was done.
    pub fn take(paths: &'a Paths, need: u64) -> Result<Self> {
        let free = available(paths)?;
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let wanted = wanted(need, 0);
        if free < wanted {
            bail!("{} MiB of memory are needed, {} MiB are free", mib(wanted), mib(free));
        }
        let share = Share::of(paths, USER);
        share.mount()?;
        // In fewer and larger pieces.
        let _ = fs::write(paths.at("/proc/sys/vm/compact_memory"), "1");
        let path = share.dir().join("pages");
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let mut taken = Self { paths, file, addresses: Vec::new(), need };
        let least = need + 2 * SIZE;
        taken.more(least)?;
        let has = taken.addresses.len() as u64 * SIZE;
        if has < least {
            bail!("{} MiB of memory are needed in huge pages, {} MiB could be had", mib(least), mib(has));
        }
        Ok(taken)
    }

    /// Takes `bytes` more, as long as enough is left to the machine. Gives whether it has got any.
    fn more(&mut self, bytes: u64) -> Result<bool> {
        let spare = available(self.paths)?.saturating_sub(SPARE);
        let grown = Share::of(self.paths, USER).grow(bytes.min(spare).div_ceil(SIZE))? as usize;
        let had = self.addresses.len();
        if grown > 0 {
            let pages = Pages::make(&self.file, had + grown).context("huge pages are used by somebody else")?;
            let addresses = (had..had + grown).map(|page| pages.address(page));
            self.addresses.extend(addresses.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(grown > 0)
    }

    /// Chooses what is handed over, at most `most` ranges, has `load` load the target with the words for it, and gives the
    /// rest back. `load` gives what memory the target's parts will be put to, which is avoided.
    ///
    /// # Errors
    /// Those of `load`; also when there are no suitable pages. [`release`] undoes what was done.
    pub fn settle(mut self, most: usize, mut load: impl FnMut(&[Run]) -> Result<Vec<Range<u64>>>) -> Result<Vec<Run>> {
        let mut avoid = Vec::new();
        for _ in 0..TRIES {
            let chosen = self.choose(&avoid, most)?;
            let segments = load(&chosen)?;
            if !segments.iter().any(|segment| chosen.iter().any(|run| run.touches(segment))) {
                self.keep(&chosen)?;
                return Ok(chosen);
            }
            tracing::debug!("the target would be put to {segments:x?}, where {chosen:x?} are");
            avoid.extend(segments);
        }
        bail!("kexec puts the target kernel somewhere else each time")
    }

    /// Chooses from what was taken, and takes more until there are whole blocks, if there is more.
    fn choose(&mut self, avoid: &[Range<u64>], most: usize) -> Result<Vec<Run>> {
        let block = block(self.paths);
        loop {
            let chosen = runs::choose(&self.addresses, avoid, self.need, block, most);
            let good = chosen.as_ref().is_some_and(|chosen| runs::are_whole(chosen, block));
            let enough = self.addresses.len() as u64 * SIZE >= self.need + MORE_BLOCKS * block;
            if good || enough || !self.more(block)? {
                let chosen = chosen.with_context(|| {
                    format!("free memory is in more than {most} pieces, or where kexec puts the target kernel")
                })?;
                let (lost, most) = (runs::lost(&chosen, block), total(self.paths)? / MOST_LOST);
                if lost > most {
                    let mib = |bytes: u64| bytes >> 20;
                    bail!(
                        "free memory is in pieces: {} MiB would stay lost until the next boot, more than {} MiB",
                        mib(lost),
                        mib(most)
                    );
                }
                return Ok(chosen);
            }
        }
    }

    /// Gives all pages back but those of `runs`, and writes down which those are.
    fn keep(&self, runs: &[Run]) -> Result<()> {
        let is_kept = |address: u64| runs.iter().any(|run| run.touches(&(address..address + SIZE)));
        let (mut kept, mut given) = (Vec::new(), 0);
        for (number, address) in self.addresses.iter().enumerate() {
            if is_kept(*address) {
                kept.push((number, *address));
                continue;
            }
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, hole, (number as u64 * SIZE) as i64, SIZE as i64)?;
            given += 1;
        }
        fs::write(list(self.paths), serde_json::to_vec(&kept)?)?;
        Share::of(self.paths, USER).shrink(given)
    }
}

/// The word that the target's command line needs for `runs`, if any. One for all of them: of ranges in words of their own the
/// kernel keeps clear of the first four only ([`super::cmdline::make`]).
pub fn words(runs: &[Run]) -> impl Iterator<Item = String> + '_ {
    let ranges: Vec<String> = runs.iter().map(|run| format!("{}M!{:#x}", run.length >> 20, run.start)).collect();
    (!ranges.is_empty()).then(|| format!("memmap={}", ranges.join(","))).into_iter()
}

/// The pages of `runs`, which were taken in this boot.
///
/// # Errors
/// When one is not where it was.
pub fn open(paths: &Paths, runs: &[Run]) -> Result<Arena> {
    let gone = "the memory that was set aside for the services is gone";
    let kept: Vec<(usize, u64)> = serde_json::from_slice(&fs::read(list(paths)).context(gone)?)?;
    let path = Share::of(paths, USER).dir().join("pages");
    let file = OpenOptions::new().read(true).write(true).open(path).context(gone)?;
    let count = file.metadata()?.len() / SIZE;
    Ok(Arena::new(Pages::open(&file, count as usize)?, runs, &kept)?)
}

/// Gives back what was taken in this boot, if anything was.
///
/// # Errors
/// When something stays.
pub fn release(paths: &Paths) -> Result<()> {
    let share = Share::of(paths, USER);
    if share.dir().exists() {
        let _ = fs::remove_file(share.dir().join("pages"));
        share.unmount()?;
    }
    let _ = fs::remove_file(list(paths));
    share.shrink(u64::MAX)
}

fn list(paths: &Paths) -> std::path::PathBuf {
    paths.run_dir().join("memory.pages")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_long_command_line_gives_fewer_ranges() {
        let largest = Run { start: (64 << 40) - (1 << 12), length: 64 << 40 };
        let (id, image) = ("5a".parse().unwrap(), Path::new("/boot/vmlinuz-1"));
        let make = |own: usize, runs: usize| {
            let word = words(&vec![largest; runs]).next();
            // That many words have the line say nokaslr as well, behind which nothing else may fit.
            let running = [&["memmap=1M!1M"; 4].join(" "), " ", &"x".repeat(own)].concat();
            let extra: Vec<&str> = word.as_deref().into_iter().collect();
            let ours = cmdline::Ours { direction: cmdline::Direction::There, id: &id, pid_floor: 300, extra: &extra };
            cmdline::make(&running, image, &ours)
        };
        let mut seen = std::collections::BTreeSet::new();
        for own in 1..1900 {
            let Ok(line) = make(own, 0) else { break };
            match most_runs(line.len()) {
                Ok(runs) => {
                    assert!(make(own, runs).is_ok(), "{runs} ranges beside {} bytes", line.len());
                    seen.insert(runs);
                }
                Err(e) => assert!(e.to_string().contains("has no room") && line.len() > 2000, "{e}"),
            }
        }
        assert_eq!(seen, (1..=MOST_RUNS).collect());
    }

    #[test]
    fn the_target_is_told_in_few_words() {
        let runs = [Run { start: 126 << 20, length: 258 << 20 }, Run { start: 4 << 30, length: 2 << 20 }];
        assert_eq!(words(&runs).collect::<Vec<_>>(), ["memmap=258M!0x7e00000,2M!0x100000000"]);
        assert_eq!(words(&[]).count(), 0);
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(block(&paths), 128 << 20);
        fs::create_dir_all(paths.at("/proc")).unwrap();
        fs::create_dir_all(paths.run_dir()).unwrap();
        fs::write(paths.at("/proc/meminfo"), "MemTotal: 9 kB\nMemAvailable:    2048 kB\n").unwrap();
        assert_eq!(available(&paths).unwrap(), 2 << 20);
        let why = Taken::take(&paths, 1 << 20).unwrap_err().to_string();
        assert!(why.contains("2 MiB are free"), "{why}");
        release(&paths).unwrap();
        assert!(open(&paths, &runs).unwrap_err().to_string().contains("is gone"));
    }
}
