//! A few bytes that go to the next kernel in memory, and nowhere else.
//!
//! The running kernel gives huge pages and says where they lie; the target is told on its command line to keep its hands off
//! the first 4 KiB of each (`memmap=4K$ADDRESS`, kernel-parameters.txt), and finds them through /dev/mem. A digest shows
//! whether a page came through; several pages carry the same, for kexec itself copies the target's parts into memory, and
//! nobody says where to. Those parts are put at the upper end of a range of memory, so pages near one are not used.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_128;

use super::hugepool::Share;
use crate::paths::Paths;
use crate::sys::hugepage;
use crate::update::{TargetKernel, UpdateId};

/// Length of what is handed over, bytes.
pub const SECRET: usize = 64;

const PAGE: usize = 4096;
const MAGIC: &[u8; 16] = b"kup handover 1\0\0";
/// Few: the kernel keeps clear of four `memmap=` on the command line ([`super::cmdline::make`]).
pub const COPIES: usize = 3;
/// How many huge pages are taken at a time to find them, and at most.
const STEP: usize = 16;
const MOST: usize = 256;
/// What they take of memory while they are looked for, bytes, where memory is not tight.
pub const MEMORY: u64 = STEP as u64 * hugepage::SIZE;
/// What kexec puts to the upper end of memory beside the kernel and its initrd: command line, purgatory, gaps of alignment.
const SMALL_THINGS: u64 = 64 << 20;
/// Whose huge pages they are.
const USER: &str = "handover";

/// Keeps `secret` for `target` of update `id`; gives the physical addresses.
///
/// # Errors
/// When there is no suitable memory. [`release`] undoes what was done.
pub fn keep(paths: &Paths, id: &UpdateId, secret: &[u8; SECRET], target: &TargetKernel) -> Result<Vec<u64>> {
    let share = Share::of(paths, USER);
    share.mount()?;
    let ranges = system_ram(&fs::read_to_string(paths.at("/proc/iomem"))?);
    let room = room(target)?;
    let pages = gather(&share, |address| is_safe(address, &ranges, room)).context("cannot have huge pages")?;
    ensure!(!pages.is_empty(), "all free huge pages lie where kexec may put the target kernel");
    let content = render(id, secret);
    pages.iter().map(|path| Ok(hugepage::fill(&open(path)?, &content)?)).collect()
}

/// Takes huge pages, a file each, until [`COPIES`] of them are `safe` or there are no more; keeps only those. The
/// others are held until then, or they would be given again.
fn gather(share: &Share<'_>, safe: impl Fn(u64) -> bool) -> Result<Vec<PathBuf>> {
    let (mut good, mut bad, mut grown) = (Vec::new(), Vec::new(), 0);
    for n in 0..MOST {
        if good.len() == COPIES {
            break;
        }
        if n % STEP == 0 {
            grown += share.grow(STEP as u64)?;
        }
        let path = share.dir().join(n.to_string());
        match hugepage::fill(&open(&path)?, &[0]) {
            Ok(address) if safe(address) => good.push(path),
            Ok(_) => bad.push(path),
            Err(e) if e.kind() == io::ErrorKind::OutOfMemory => {
                bad.push(path);
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    bad.iter().try_for_each(fs::remove_file)?;
    share.shrink(grown.saturating_sub(good.len() as u64))?;
    Ok(good)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// How much of the upper end of memory kexec needs for `target`, bytes: the kernel, unpacked (init_size of its header,
/// the kernel's arch/x86/boot.rst), and its initrd.
fn room(target: &TargetKernel) -> Result<u64> {
    let initrd = target.initrd.as_deref().map_or(Ok(0), |path| fs::metadata(path).map(|m| m.len()))?;
    let mut header = [0; 0x264];
    File::open(&target.image)?.read_exact_at(&mut header, 0).context("the target kernel's image is too short")?;
    Ok(unpacked(&header).context("the target kernel has no header")? + initrd + SMALL_THINGS)
}

fn unpacked(header: &[u8; 0x264]) -> Option<u64> {
    let size = u32::from_le_bytes(header[0x260..].try_into().ok()?);
    (&header[0x202..0x206] == b"HdrS").then_some(size.into())
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
    if share.dir().exists() {
        let wiped = wipe(&share.dir());
        share.unmount()?;
        share.shrink(u64::MAX)?;
        wiped?;
    } else if ensure_kept(paths, addresses).is_ok() {
        let memory = OpenOptions::new().write(true).open(paths.at("/dev/mem"))?;
        for address in addresses {
            memory.write_all_at(&[0; PAGE], *address)?;
        }
    }
    Ok(())
}

/// Overwrites and gives back every page in `dir`, also behind one that cannot be overwritten.
fn wipe(dir: &Path) -> Result<()> {
    let mut failure = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let zeroed = open(&path).and_then(|page| hugepage::fill(&page, &[0; PAGE]));
        fs::remove_file(path)?;
        // Without a page there was nothing in it.
        failure = failure.or(zeroed.err().filter(|e| e.kind() != io::ErrorKind::OutOfMemory));
    }
    Ok(failure.map_or(Ok(()), Err)?)
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
    fn a_kernel_says_how_large_it_is_unpacked() {
        let mut header = [0; 0x264];
        header[0x260..].copy_from_slice(&0x0345_6000u32.to_le_bytes());
        assert_eq!(unpacked(&header), None);
        header[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(unpacked(&header), Some(0x0345_6000));
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
