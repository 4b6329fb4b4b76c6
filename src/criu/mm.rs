//! `mm-PID.img`: the mappings of a process that was dumped (images/mm.proto, vma.proto).

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use nix::libc::{MAP_ANONYMOUS, MAP_HUGETLB, MAP_LOCKED, MAP_PRIVATE};
use prost::Message;

use super::image::{ImageError, messages};

/// criu/include/magic.h.
const MAGIC: u32 = 0x5749_2820;
/// Mappings that the kernel makes: vsyscall, vDSO, vvar (criu/include/image.h).
const KERNELS_OWN: u32 = 1 << 2 | 1 << 3 | 1 << 12;

#[derive(Clone, PartialEq, Message)]
struct Mm {
    #[prost(message, repeated, tag = "14")]
    mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, required, tag = "1")]
    start: u64,
    #[prost(uint64, required, tag = "2")]
    end: u64,
    #[prost(uint32, required, tag = "6")]
    flags: u32,
    #[prost(uint32, required, tag = "7")]
    status: u32,
}

impl Mapping {
    /// CRIU's vma_entry_can_be_lazy(): what it will hand to the pager.
    fn can_be_lazy(&self) -> bool {
        let has = |flag: i32| self.flags & flag as u32 != 0;
        has(MAP_ANONYMOUS)
            && has(MAP_PRIVATE)
            && !has(MAP_LOCKED)
            && !has(MAP_HUGETLB)
            && self.status & KERNELS_OWN == 0
    }
}

/// Addresses of the process `pid` that CRIU will hand to the pager; mappings that touch are one range.
///
/// # Errors
/// [`ImageError`].
pub fn lazy(images: &Path, pid: i32) -> Result<Vec<Range<u64>>, ImageError> {
    let path = images.join(format!("mm-{pid}.img"));
    let io = |cause| ImageError::Io { path: path.clone(), cause };
    let file = File::open(&path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for mm in messages::<Mm>(&path, (BufReader::new(file), length), MAGIC, 1)? {
        for mapping in mm.mappings.iter().filter(|m| m.can_be_lazy()) {
            match ranges.last_mut() {
                Some(last) if last.end == mapping.start => last.end = mapping.end,
                _ => ranges.push(mapping.start..mapping.end),
            }
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::image;

    #[test]
    fn what_criu_hands_over() {
        let heap = Mapping { start: 0x1000, end: 0x3000, flags: (MAP_PRIVATE | MAP_ANONYMOUS) as u32, status: 0x201 };
        let at = |start: u64, mapping: Mapping| Mapping { start, end: start + 0x1000, ..mapping };
        let flagged = |flag: i32| Mapping { flags: heap.flags | flag as u32, ..heap };
        let mappings = vec![
            heap,
            at(0x3000, heap),
            at(0x4000, flagged(MAP_LOCKED)),
            at(0x5000, heap),
            at(0x6000, flagged(MAP_HUGETLB)),
            at(0x7000, Mapping { flags: MAP_PRIVATE as u32, ..heap }),
            at(0x8000, Mapping { status: 1 << 12, ..heap }),
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        image::head(&mut bytes, MAGIC).unwrap();
        image::message(&mut bytes, &Mm { mappings }).unwrap();
        std::fs::write(dir.path().join("mm-712.img"), bytes).unwrap();
        assert_eq!(lazy(dir.path(), 712).unwrap(), [0x1000..0x4000, 0x5000..0x6000]);
        assert!(lazy(dir.path(), 713).is_err());
    }
}
