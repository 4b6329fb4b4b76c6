//! How much memory a process has, /proc/PID/smaps_rollup.

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In RAM, shared pages counted in full.
    pub rss: u64,
    /// In RAM, shared pages counted by share: the sum over processes is what they use together.
    pub pss: u64,
    /// Anonymous part of `rss`: what a checkpoint has to store.
    pub anonymous: u64,
    /// Share of shared memory (tmpfs, shared anonymous) in `pss`.
    pub shmem: u64,
    /// Locked by mlock(2).
    pub locked: u64,
    /// In huge pages of hugetlbfs or MAP_HUGETLB; not part of `rss`.
    pub hugetlb: u64,
    /// Swapped out: comes back into a checkpoint too.
    pub swap: u64,
    /// What a pager may still have to bring, at most; 0 unless [`super::UnitProcs::look_for_missing`] was called.
    pub missing: u64,
}

impl Memory {
    /// Parses smaps_rollup; absent lines count as 0.
    pub fn parse(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let Some(kib) = value.trim().strip_suffix(" kB").and_then(|v| v.trim().parse::<u64>().ok()) else {
                continue;
            };
            let field = match key {
                "Rss" => &mut memory.rss,
                "Pss" => &mut memory.pss,
                "Anonymous" => &mut memory.anonymous,
                "Pss_Shmem" => &mut memory.shmem,
                "Locked" => &mut memory.locked,
                "Swap" => &mut memory.swap,
                "Shared_Hugetlb" | "Private_Hugetlb" => &mut memory.hugetlb,
                _ => continue,
            };
            *field = field.saturating_add(kib.saturating_mul(1024));
        }
        memory
    }

    /// What a checkpoint of the process stores of it.
    pub fn stored(&self) -> u64 {
        [self.anonymous, self.shmem, self.swap, self.hugetlb].into_iter().fold(0, u64::saturating_add)
    }

    /// What a checkpoint of the process can take at most, without the page cache of files that stay where they are.
    pub fn image_size(&self) -> u64 {
        // What CRIU reads itself is there twice.
        let eager = [self.shmem, self.hugetlb, self.locked];
        eager.into_iter().fold(self.stored(), u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollup() {
        let text = "\
55d0c8b1a000-7ffd3d5f3000 ---p 00000000 00:00 0                          [rollup]
Rss:                2996 kB
Pss:                 760 kB
Pss_Shmem:             8 kB
Anonymous:           640 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
Swap:                 12 kB
SwapPss:              12 kB
Locked:                4 kB
";
        let m = Memory::parse(text);
        assert_eq!((m.rss, m.pss, m.anonymous), (2996 << 10, 760 << 10, 640 << 10));
        assert_eq!((m.shmem, m.hugetlb, m.swap, m.locked), (8 << 10, 6144 << 10, 12 << 10, 4 << 10));
        assert_eq!(m.image_size(), (640 + 2 * 8 + 12 + 2 * 6144 + 4) << 10, "what cannot come later is there twice");
    }

    #[test]
    fn what_no_machine_has_is_no_overflow() {
        let text = format!("Swap: {0} kB\nShared_Hugetlb: {0} kB\nPrivate_Hugetlb: {0} kB\n", u64::MAX);
        assert_eq!(Memory::parse(&text).image_size(), u64::MAX);
    }
}
