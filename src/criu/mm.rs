//! `mm-PID.img`: the mappings of a process that was dumped (images/mm.proto, vma.proto).
//!
//! CRIU before 4.2 does not see which mappings a child is to find empty (MADV_WIPEONFORK). glibc keeps the state of its
//! random numbers in such a one, and relies on it: parents and children would give the same numbers. The image has room for
//! it, and a restore does what it finds there.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nix::libc::{MADV_DONTFORK, MADV_WIPEONFORK, MAP_ANONYMOUS, MAP_HUGETLB, MAP_LOCKED, MAP_PRIVATE};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};

use super::image::{ImageError, bytes, frame, head, messages, open};

/// criu/include/magic.h.
const MAGIC: u32 = 0x5749_2820;
/// Mappings that the kernel makes: vsyscall, vDSO, vvar, shadow stacks (criu/include/image.h).
const KERNELS_OWN: u32 = 1 << 2 | 1 << 3 | 1 << 12 | 1 << 15;
/// Where a message of mappings has them, and where each has its advice.
const MAPPINGS: u32 = 14;
const ADVICE: u32 = 9;
/// What a child does not have as its parent has it: the kernel tells a pager of the child, and not of that.
const NOT_FOR_CHILDREN: u64 = 1 << MADV_DONTFORK | 1 << MADV_WIPEONFORK;

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
    /// A bit for each number of madvise(2).
    #[prost(uint64, optional, tag = "9")]
    advice: Option<u64>,
}

impl Mapping {
    /// CRIU's vma_entry_can_be_lazy(): what it will hand to the pager; but for what a pager cannot follow.
    fn can_be_lazy(&self) -> bool {
        let has = |flag: i32| self.flags & flag as u32 != 0;
        has(MAP_ANONYMOUS)
            && has(MAP_PRIVATE)
            && !has(MAP_LOCKED)
            && !has(MAP_HUGETLB)
            && self.status & KERNELS_OWN == 0
            && self.advice.unwrap_or(0) & NOT_FOR_CHILDREN == 0
    }
}

fn image(images: &Path, pid: i32) -> PathBuf {
    images.join(format!("mm-{pid}.img"))
}

/// Addresses of the process `pid` that CRIU will hand to the pager, in order; mappings that touch are one range.
///
/// # Errors
/// [`ImageError`].
pub fn lazy(images: &Path, pid: i32) -> Result<Vec<Range<u64>>, ImageError> {
    let path = image(images, pid);
    lazy_in(&path, open(&path)?)
}

/// As [`lazy`], of the image at `path`, of which so many bytes are in `input`.
///
/// # Errors
/// [`ImageError`].
pub fn lazy_in(path: &Path, input: (impl Read, u64)) -> Result<Vec<Range<u64>>, ImageError> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for mm in messages::<Mm>(path, input, MAGIC, 1)? {
        for mapping in mm.mappings.iter().filter(|m| m.can_be_lazy()) {
            let before = ranges.last().map_or(0, |last| last.end);
            // Whoever looks an address up in them relies on it: a page would wait for a pager that is not asked for it.
            if mapping.start < before || mapping.end <= mapping.start {
                let what = format!("its mapping {:#x}-{:#x} is out of order", mapping.start, mapping.end);
                return Err(ImageError::Damaged { path: path.into(), what });
            }
            match ranges.last_mut() {
                Some(last) if last.end == mapping.start => last.end = mapping.end,
                _ => ranges.push(mapping.start..mapping.end),
            }
        }
    }
    Ok(ranges)
}

/// Has the mappings of `pid` in `ranges` be emptied for children, in the image that CRIU has just written.
///
/// # Errors
/// [`ImageError`].
pub fn wipe_on_fork(images: &Path, pid: i32, ranges: &[Range<u64>]) -> Result<(), ImageError> {
    if ranges.is_empty() {
        return Ok(());
    }
    let path = image(images, pid);
    let io = |cause| ImageError::Io { path: path.clone(), cause };
    let wiped = wiped_on_fork(&path, &fs::read(&path).map_err(io)?, ranges)?;
    fs::write(&path, wiped).map_err(io)
}

/// As [`wipe_on_fork`], for what is in the image at `path`; gives what is to be in it.
///
/// # Errors
/// [`ImageError`].
pub fn wiped_on_fork(path: &Path, image: &[u8], ranges: &[Range<u64>]) -> Result<Vec<u8>, ImageError> {
    let io = |cause| ImageError::Io { path: path.into(), cause };
    let damaged = |what: String| ImageError::Damaged { path: path.into(), what };
    let mut output = Vec::new();
    head(&mut output, MAGIC).map_err(io)?;
    for message in bytes(path, (image, image.len() as u64), MAGIC)? {
        let message = advised(&message, ranges).map_err(|e| damaged(e.to_string()))?;
        frame(&mut output, &message).map_err(io)?;
    }
    Ok(output)
}

/// The message of all mappings with more advice for some of them. Field by field, as it has more of them than are known here.
fn advised(message: &[u8], ranges: &[Range<u64>]) -> Result<Vec<u8>, prost::DecodeError> {
    let (mut input, mut output) = (message, Vec::with_capacity(message.len()));
    while !input.is_empty() {
        let whole = input;
        let (tag, kind) = encoding::decode_key(&mut input)?;
        if (tag, kind) != (MAPPINGS, WireType::LengthDelimited) {
            encoding::skip_field(kind, tag, &mut input, DecodeContext::default())?;
            output.extend(&whole[..whole.len() - input.len()]);
            continue;
        }
        let mut field = Vec::new();
        encoding::bytes::merge(kind, &mut field, &mut input, DecodeContext::default())?;
        let mapping = Mapping::decode(field.as_slice())?;
        if ranges.iter().any(|range| range.start <= mapping.start && mapping.end <= range.end) {
            // Of a field that comes twice the last one counts.
            encoding::uint64::encode(ADVICE, &(mapping.advice.unwrap_or(0) | 1 << MADV_WIPEONFORK), &mut field);
        }
        encoding::bytes::encode(MAPPINGS, &field, &mut output);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::image;

    #[test]
    fn what_criu_hands_over() {
        let heap = Mapping {
            start: 0x1000,
            end: 0x3000,
            flags: (MAP_PRIVATE | MAP_ANONYMOUS) as u32,
            status: 0x201,
            advice: None,
        };
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
            at(0x9000, Mapping { advice: Some(1 << MADV_DONTFORK), ..heap }),
        ];
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        image::head(&mut bytes, MAGIC).unwrap();
        image::message(&mut bytes, &Mm { mappings }).unwrap();
        std::fs::write(dir.path().join("mm-712.img"), bytes).unwrap();
        assert_eq!(lazy(dir.path(), 712).unwrap(), [0x1000..0x4000, 0x5000..0x6000]);
        assert!(lazy(dir.path(), 713).is_err());
    }

    #[test]
    fn mappings_out_of_order_are_refused() {
        let heap = Mapping { start: 0x1000, end: 0x3000, flags: 0x22, status: 0x201, advice: None };
        let overlapping = Mapping { start: 0x2000, ..heap };
        let earlier = Mapping { start: 0, end: 0x1000, ..heap };
        for second in [overlapping, earlier, Mapping { start: 0x5000, ..heap }, Mapping { start: 0x3000, ..heap }] {
            let mut bytes = Vec::new();
            head(&mut bytes, MAGIC).unwrap();
            image::message(&mut bytes, &Mm { mappings: vec![heap, second] }).unwrap();
            let why = lazy_in(Path::new("mm-5.img"), (bytes.as_slice(), bytes.len() as u64)).unwrap_err().to_string();
            assert!(why.contains("mm-5.img is damaged") && why.contains("out of order"), "{why}");
        }
    }

    /// With a field that is not known here, before and behind.
    #[test]
    fn advice_is_added_and_the_rest_stays() {
        let heap = Mapping { start: 0x1000, end: 0x3000, flags: 0x22, status: 0x201, advice: None };
        let random = Mapping { start: 0x5000, end: 0x6000, advice: Some(1 << 16), ..heap };
        let entry = |mapping: &Mapping| {
            let mut field = mapping.encode_to_vec();
            encoding::string::encode(12, &"unknown".to_owned(), &mut field);
            field
        };
        let message = |entries: &[Vec<u8>]| {
            let mut message = Vec::new();
            encoding::uint64::encode(1, &0x7777, &mut message);
            entries.iter().for_each(|entry| encoding::bytes::encode(MAPPINGS, entry, &mut message));
            encoding::uint64::encode(11, &3, &mut message);
            message
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mm-5.img");
        let mut image = Vec::new();
        head(&mut image, MAGIC).unwrap();
        let before = message(&[entry(&heap), entry(&random)]);
        frame(&mut image, &before).unwrap();
        fs::write(&path, &image).unwrap();
        wipe_on_fork(dir.path(), 5, &[]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), image);
        wipe_on_fork(dir.path(), 5, &[0x4000..0x5000, 0x5000..0x6000]).unwrap();
        let mut added = entry(&random);
        encoding::uint64::encode(ADVICE, &(1 << 16 | 1 << MADV_WIPEONFORK), &mut added);
        assert_eq!(fs::read(&path).unwrap()[12..], message(&[entry(&heap), added]));
        assert_eq!(lazy(dir.path(), 5).unwrap(), vec![0x1000..0x3000], "CRIU reads the other one itself");
        fs::write(&path, &image[..image.len() - 1]).unwrap();
        assert!(wipe_on_fork(dir.path(), 5, std::slice::from_ref(&(0..1))).is_err());
    }
}
