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
    let io = |source| ImageError::Io { path: path.clone(), source };
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
