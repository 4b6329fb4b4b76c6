//! A few bytes that go to the next kernel in memory, and nowhere else.
//!
//! The running kernel gives huge pages and says where they lie; the target is told on its command line to keep its hands off
//! the first 4 KiB of each (`memmap=4K$ADDRESS`, kernel-parameters.txt), and finds them through /dev/mem. A digest shows
//! whether a page came through; several pages carry the same, for kexec itself copies the target's parts into memory, and
//! nobody says where to. Those parts are put at the upper end of a range of memory, so pages near one are not used.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_128;

use super::hugepool::Share;
use crate::paths::Paths;
use crate::sys::hugepage;
use crate::update::UpdateId;

/// Length of what is handed over, bytes.
pub const SECRET: usize = 64;

const PAGE: usize = 4096;
const MAGIC: &[u8; 16] = b"kup handover 1\0\0";
/// More `memmap=` than four on the command line switch the kernel's address randomisation off (boot/compressed/kaslr.c).
const COPIES: usize = 3;
/// How many huge pages are looked at to find them.
const CANDIDATES: usize = 12;
/// What kexec puts to the upper end of memory beside the initrd: the kernel, unpacked, and small things.
const KERNEL_ROOM: u64 = 256 << 20;
/// Whose huge pages they are.
const USER: &str = "handover";

/// Keeps `secret` for the target of update `id`, whose initrd has `initrd` bytes; gives the physical addresses.
///
/// # Errors
/// When there is no suitable memory. [`release`] undoes what was done.
pub fn keep(paths: &Paths, id: &UpdateId, secret: &[u8; SECRET], initrd: u64) -> Result<Vec<u64>> {
    let share = Share::of(paths, USER);
    share.mount()?;
    let path = share.dir().join("key");
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    share.grow(CANDIDATES as u64).context("cannot have huge pages")?;
    let addresses = hugepage::fill(&file, CANDIDATES, &[0], |_| true).context("cannot have huge pages")?;
    let ranges = system_ram(&fs::read_to_string(paths.at("/proc/iomem"))?);
    let safe = |address: &&u64| is_safe(**address, &ranges, initrd + KERNEL_ROOM);
    let mut chosen: Vec<u64> = addresses.iter().filter(safe).copied().collect();
    chosen.sort_unstable();
    chosen.truncate(COPIES);
    ensure!(!chosen.is_empty(), "all free huge pages lie where kexec may put the target kernel");
    hugepage::fill(&file, CANDIDATES, &render(id, secret), |n| chosen.contains(&addresses[n]))?;
    Ok(chosen)
}

/// The words that the target's command line needs.
pub fn words(addresses: &[u64]) -> impl Iterator<Item = String> + '_ {
    addresses.iter().map(|address| format!("memmap=4K${address:#x}"))
}

/// What was kept for the kernel that runs now.
///
/// # Errors
/// When no page came through, or /dev/mem may not be read.
pub fn take(paths: &Paths, id: &UpdateId, addresses: &[u64]) -> Result<[u8; SECRET]> {
    ensure_kept(paths, addresses)?;
    let memory = File::open(paths.at("/dev/mem")).context("cannot open /dev/mem")?;
    for address in addresses {
        let mut page = [0; PAGE];
        memory.read_exact_at(&mut page, *address).context("cannot read /dev/mem")?;
        if let Some(secret) = parse(&page, id) {
            return Ok(secret);
        }
    }
    bail!("nothing of it came over the switch")
}

/// Forgets it: wherever this kernel or the one before it has left it.
///
/// # Errors
/// When something stays.
pub fn release(paths: &Paths, addresses: &[u64]) -> Result<()> {
    let share = Share::of(paths, USER);
    let path = share.dir().join("key");
    if let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) {
        let zeroed = hugepage::fill(&file, CANDIDATES, &[0; PAGE], |_| true);
        fs::remove_file(path)?;
        share.unmount()?;
        share.shrink(u64::MAX)?;
        // Without pages there was nothing in them.
        zeroed.map(drop).or_else(|e| if e.kind() == io::ErrorKind::OutOfMemory { Ok(()) } else { Err(e) })?;
    } else if ensure_kept(paths, addresses).is_ok() {
        let memory = OpenOptions::new().write(true).open(paths.at("/dev/mem"))?;
        for address in addresses {
            memory.write_all_at(&[0; PAGE], *address)?;
        }
    }
    Ok(())
}

/// The pages are this kernel's ordinary memory unless its command line says otherwise.
fn ensure_kept(paths: &Paths, addresses: &[u64]) -> Result<()> {
    let line = fs::read_to_string(paths.cmdline())?;
    let kept = |word: &String| super::cmdline::split(&line).contains(&word.as_str());
    ensure!(words(addresses).all(|word| kept(&word)), "the memory that held it was given up: the machine was reset");
    Ok(())
}

fn render(id: &UpdateId, secret: &[u8; SECRET]) -> Vec<u8> {
    let mut page = [MAGIC.as_slice(), id.as_str().as_bytes()].concat();
    page.resize(64, 0);
    page.extend_from_slice(secret);
    let digest = xxh3_128(&page).to_le_bytes();
    page.extend_from_slice(&digest);
    page.resize(PAGE, 0);
    page
}

fn parse(page: &[u8; PAGE], id: &UpdateId) -> Option<[u8; SECRET]> {
    let secret: [u8; SECRET] = page[64..64 + SECRET].try_into().ok()?;
    (render(id, &secret) == page).then_some(secret)
}

/// First and last address of every range of ordinary memory in the text of /proc/iomem.
fn system_ram(iomem: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let (start, end) = line.strip_suffix(" : System RAM")?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    iomem.lines().filter_map(range).collect()
}

/// Is the page at `address` in a range of memory, and further than `room` from its upper end?
fn is_safe(address: u64, ranges: &[(u64, u64)], room: u64) -> bool {
    ranges.iter().any(|(start, end)| (*start..=*end).contains(&address) && end - address >= room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_whole_and_for_its_update_alone() {
        let id: UpdateId = "65f0c1a2b3c4d".parse().unwrap();
        let secret = std::array::from_fn(|n| n as u8);
        let page: [u8; PAGE] = render(&id, &secret).try_into().unwrap();
        assert_eq!(parse(&page, &id), Some(secret));
        assert_eq!(parse(&page, &"65f0c1a2b3c4e".parse().unwrap()), None);
        for at in [0, 20, 64, 127, 128, 143, PAGE - 1] {
            let mut damaged = page;
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged, &id), None, "byte {at}");
        }
        assert_eq!(parse(&[0; PAGE], &id), None);
    }

    #[test]
    fn pages_keep_away_from_where_kexec_works() {
        let iomem = "00000000-00000fff : Reserved\n00100000-7fffffff : System RAM\n  01000000-01ffffff : Kernel code\n\
                     100000000-17fffffff : System RAM\n";
        let ranges = system_ram(iomem);
        assert_eq!(ranges, [(0x10_0000, 0x7fff_ffff), (0x1_0000_0000, 0x1_7fff_ffff)]);
        let safe = |address| is_safe(address, &ranges, 0x1000_0000);
        assert!(safe(0x20_0000) && safe(0x6000_0000) && safe(0x1_0000_0000));
        assert!(!safe(0x7000_0000) && !safe(0x1_7800_0000) && !safe(0x9000_0000) && !safe(0x1000));
    }

    #[test]
    fn a_kernel_that_was_not_told_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let id: UpdateId = "65f0c1a2b3c4d".parse().unwrap();
        fs::create_dir_all(paths.at("/proc")).unwrap();
        fs::create_dir_all(paths.at("/dev")).unwrap();
        let secret = [7; SECRET];
        let mut memory = vec![0; 0x2000];
        memory.extend(render(&id, &secret));
        fs::write(paths.at("/dev/mem"), memory).unwrap();
        fs::write(paths.cmdline(), "quiet").unwrap();
        assert!(take(&paths, &id, &[0x2000]).unwrap_err().to_string().contains("was reset"));
        fs::write(paths.cmdline(), "quiet kup.txn=1 memmap=4K$0x1000 memmap=4K$0x2000 kup.end").unwrap();
        assert_eq!(take(&paths, &id, &[0x1000, 0x2000]).unwrap(), secret, "the second copy does");
        release(&paths, &[0x1000, 0x2000]).unwrap();
        assert!(take(&paths, &id, &[0x1000, 0x2000]).unwrap_err().to_string().contains("nothing"));
    }
}
