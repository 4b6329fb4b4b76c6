//! What a process's memory is like, mapping by mapping: /proc/PID/smaps.

use std::io;
use std::ops::Range;

use crate::paths::Paths;

/// A mapping, as far as its pages go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// In RAM, bytes.
    pub rss: u64,
    /// Swapped out, bytes.
    pub swap: u64,
    /// Whether a userfaultfd is asked for what is missing (flag `um`).
    pub served: bool,
    /// Whether a child finds it empty (flag `wf`, MADV_WIPEONFORK of madvise(2)).
    pub wiped: bool,
    /// Whether the kernel may forget its content at any time (flag `dp`, MAP_DROPPABLE of mmap(2), Linux 6.11).
    pub droppable: bool,
}

impl Area {
    /// What somebody else may still have to bring, bytes.
    fn missing(&self) -> u64 {
        if self.served { (self.end - self.start).saturating_sub(self.rss.saturating_add(self.swap)) } else { 0 }
    }
}

/// All mappings of a process; lines of another form are left out.
pub fn parse(text: &str) -> Vec<Area> {
    let mut areas: Vec<Area> = Vec::new();
    for line in text.lines() {
        if let Some((start, end)) = range(line) {
            areas.push(Area { start, end, ..Area::default() });
            continue;
        }
        let (Some(area), Some((key, value))) = (areas.last_mut(), line.split_once(':')) else { continue };
        let bytes = || value.trim().strip_suffix(" kB").and_then(|v| v.parse::<u64>().ok()?.checked_mul(1024));
        match key {
            "Rss" => area.rss = bytes().unwrap_or(0),
            "Swap" => area.swap = bytes().unwrap_or(0),
            "VmFlags" => {
                let has = |flag: &str| value.split_ascii_whitespace().any(|f| f == flag);
                (area.served, area.wiped, area.droppable) = (has("um"), has("wf"), has("dp"));
            }
            _ => {}
        }
    }
    areas
}

/// `55e5f2c00000-55e5f2c9a000 rw-p …`, the first line of a mapping.
fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start <= end).then_some((start, end))
}

/// What of the memory of process `pid` its children find empty.
///
/// # Errors
/// When /proc cannot be read.
pub fn wiped(pid: i32) -> io::Result<Vec<Range<u64>>> {
    ranges(pid, |area| area.wiped)
}

/// What of the memory of process `pid` the kernel may forget at any time.
///
/// # Errors
/// When /proc cannot be read.
pub fn droppable(pid: i32) -> io::Result<Vec<Range<u64>>> {
    ranges(pid, |area| area.droppable)
}

fn ranges(pid: i32, wanted: impl Fn(&Area) -> bool) -> io::Result<Vec<Range<u64>>> {
    let areas = parse(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?);
    Ok(areas.into_iter().filter(wanted).map(|area| area.start..area.end).collect())
}

/// What of the memory of process `pid` a pager may still have to bring, bytes; a process that is gone misses nothing.
///
/// # Errors
/// When /proc cannot be read.
pub fn missing(paths: &Paths, pid: i32) -> io::Result<u64> {
    match std::fs::read_to_string(paths.at(format!("/proc/{pid}/smaps"))) {
        Ok(text) => Ok(parse(&text).iter().map(Area::missing).fold(0, u64::saturating_add)),
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55e5f2c00000-55e5f2c10000 r-xp 00002000 08:01 1572 /usr/bin/a b: c
Size:                 64 kB
Rss:                  60 kB
VmFlags: rd ex mr mw me sd
7f1a00000000-7f1a00100000 rw-p 00000000 00:00 0 
Size:               1024 kB
Rss:                 256 kB
Swap:                 64 kB
VmFlags: rd wr mr mw me ac um sd
7ffd10000000-7ffd10021000 rw-p 00000000 00:00 0                          [stack]
Rss:                1000 kB
VmFlags: rd wr um
";

    #[test]
    fn what_a_userfaultfd_is_asked_for() {
        let areas = parse(TEXT);
        let missing: Vec<_> = areas.iter().map(Area::missing).collect();
        assert_eq!(missing, [0, 704 << 10, 0]);
        assert_eq!((areas[1].start, areas[1].end, areas[1].rss), (0x7f1a_0000_0000, 0x7f1a_0010_0000, 256 << 10));
        assert!(parse("Rss: 1 kB\nffff-0 rw-p\n").is_empty());
    }

    #[test]
    fn flags() {
        let areas =
            parse("1000-2000 rw-p\nVmFlags: rd wr mr mw me nr dd wf dp sd\n2000-3000 rw-p\nVmFlags: rd wr wf\n");
        let flags: Vec<_> = areas.iter().map(|a| (a.wiped, a.droppable, a.served)).collect();
        assert_eq!(flags, [(true, true, false), (true, false, false)]);
    }

    #[test]
    fn of_a_process() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert_eq!(missing(&paths, 7).unwrap(), 0);
        std::fs::create_dir_all(paths.at("/proc/7")).unwrap();
        std::fs::write(paths.at("/proc/7/smaps"), TEXT).unwrap();
        assert_eq!(missing(&paths, 7).unwrap(), 704 << 10);
        assert_eq!(missing(&Paths::host(), std::process::id() as i32).unwrap(), 0);
    }
}
