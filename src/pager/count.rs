//! How much of a process can wait, and how much CRIU brings before it runs.

use crate::inspect::Mapping;
use crate::inspect::maps;

/// Bytes of one process, in RAM or swapped out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Comes on demand. A child that shares it with its parent gets a copy of its own: CRIU does not keep pages shared
    /// that it leaves to a pager.
    pub lazy: u64,
    /// Shared memory: anonymous, System V, memfd.
    pub shared: u64,
    /// Locked by mlock(2).
    pub locked: u64,
    /// Huge pages that were asked for as such (hugetlbfs, MAP_HUGETLB).
    pub hugetlb: u64,
    /// Changed pages of mapped files.
    pub file: u64,
}

impl Count {
    /// What must be there before the process runs.
    pub fn eager(&self) -> u64 {
        self.shared + self.locked + self.hugetlb + self.file
    }

    /// Counts the text of /proc/PID/smaps, by CRIU's own rule (`vma_entry_can_be_lazy()`, criu/include/vma.h); but for the
    /// page that a thread's stack pointer is in, which never waits.
    pub fn parse(smaps: &str) -> Self {
        let mut count = Self::default();
        let mut area: Option<Area> = None;
        for line in smaps.lines() {
            match maps::parse(line).pop() {
                Some((mapping, ..)) => {
                    count.add(area.replace(Area::new(mapping)));
                }
                None => area.iter_mut().for_each(|a| a.read(line)),
            }
        }
        count.add(area);
        count
    }

    fn add(&mut self, area: Option<Area>) {
        let Some(area) = area else { return };
        let kernels = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&area.mapping.name.as_str());
        let file = area.mapping.is_file();
        let (field, bytes) = match () {
            () if kernels => return,
            () if area.hugetlb_flag => (&mut self.hugetlb, area.hugetlb),
            // The pages of a shared file are the file's.
            () if area.mapping.shared && file => return,
            () if area.mapping.shared => (&mut self.shared, area.rss + area.swap),
            () if area.mapping.name.starts_with('/') => (&mut self.file, area.anonymous + area.swap),
            () if area.locked => (&mut self.locked, area.anonymous + area.swap),
            () => (&mut self.lazy, area.anonymous + area.swap),
        };
        *field = field.saturating_add(bytes);
    }
}

/// One mapping, as smaps tells it.
#[derive(Debug, Default)]
struct Area {
    mapping: Mapping,
    rss: u64,
    anonymous: u64,
    swap: u64,
    hugetlb: u64,
    locked: bool,
    hugetlb_flag: bool,
}

impl Area {
    fn new(mapping: Mapping) -> Self {
        Self { mapping, ..Self::default() }
    }

    fn read(&mut self, line: &str) {
        let Some((key, value)) = line.split_once(':') else { return };
        if key == "VmFlags" {
            self.locked = value.split_whitespace().any(|f| f == "lo");
            self.hugetlb_flag = value.split_whitespace().any(|f| f == "ht");
            return;
        }
        let kib = value.trim().strip_suffix(" kB").and_then(|v| v.trim().parse::<u64>().ok());
        let field = match key {
            "Rss" => &mut self.rss,
            "Anonymous" => &mut self.anonymous,
            "Swap" => &mut self.swap,
            "Shared_Hugetlb" | "Private_Hugetlb" => &mut self.hugetlb,
            _ => return,
        };
        *field = field.saturating_add(kib.unwrap_or(0).saturating_mul(1024));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(head: &str, sizes: &str, flags: &str) -> String {
        let sizes: String = sizes.split_whitespace().map(|s| format!("{} kB\n", s.replace(':', ":   "))).collect();
        format!("{head}\nSize:  9999 kB\n{sizes}VmFlags: {flags}\n")
    }

    #[test]
    fn every_kind() {
        let text = [
            area("1000-2000 rw-p 00000000 00:00 0 ", "Rss:900 Anonymous:800 Swap:7", "rd wr mr mw me ac"),
            area("2000-3000 rw-p 00000000 00:00 0                  [heap]", "Rss:10 Anonymous:10", "rd wr mr"),
            area("3000-4000 rw-p 00000000 00:00 0 ", "Rss:20 Anonymous:20 Locked:20", "rd wr lo"),
            area("4000-5000 rw-p 00000000 08:01 7      /usr/lib/libc.so.6", "Rss:60 Anonymous:30", "rd wr"),
            area("5000-6000 rw-s 00000000 00:01 8      /dev/zero (deleted)", "Rss:40 Swap:2", "rd wr sh"),
            area("6000-7000 rw-s 00000000 08:01 9      /var/lib/db/data", "Rss:5000", "rd wr sh"),
            area("7000-8000 rw-p 00000000 00:0f 10     /anon_hugepage (deleted)", "Private_Hugetlb:2048", "rd wr ht"),
            area("8000-9000 r-xp 00000000 00:00 0      [vdso]", "Rss:8 Anonymous:8", "rd ex"),
        ];
        let kib = |n: u64| n << 10;
        let count = Count::parse(&text.concat());
        let expected = Count { lazy: kib(817), shared: kib(42), locked: kib(20), hugetlb: kib(2048), file: kib(30) };
        assert_eq!(count, expected);
        assert_eq!(count.eager(), kib(42 + 20 + 2048 + 30));
    }
}
