//! CRIU's images of a process's memory, and what says which of it is in RAM.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use kup::criu::image::ImageError;
use kup::criu::{pagemap, pstree};
use kup::fuzz::{lazy, wiped_on_fork};
use kup::store::pmem::Pmem;
use kup::store::ram::{Ram, Table};
use kup::store::runs::Run;
use kup::store::{Disk, Foam, Medium, Memory, Owner, PAGE, WINDOW};

use super::memory::{Pages, comes_back};
use super::parts;

const PID: i32 = 712;
/// Pages that there are, whatever the pagemap says.
const PAGES: u64 = 64;
/// Frames of three huge pages: the first and the last stay empty.
const FRAMES: u32 = 512;

/// `pstree.img`, `mm-712.img`, `pagemap-712.img` and a table of memory in RAM; four record separators are between them.
pub fn criu_memory(data: &[u8]) {
    let parts = parts(data);
    let part = |number: usize| parts.get(number).copied().unwrap_or_default();
    tree(part(0));
    mappings(part(1));
    memory(part(1), part(2));
    table(part(3));
}

fn tree(image: &[u8]) {
    match pstree::pids_in(Path::new(pstree::NAME), sized(image)) {
        Ok(pids) => assert!(pids.len() <= image.len() / 4),
        Err(e) => damaged(&e, pstree::NAME),
    }
}

/// Ranges are in order, and nothing that a child is to find empty is handed to the pager.
fn mappings(image: &[u8]) {
    let path = Path::new("mm-712.img");
    let before = match lazy(path, sized(image)) {
        Ok(before) => before,
        Err(e) => return damaged(&e, "mm-712.img"),
    };
    assert!(before.iter().all(|range| range.start < range.end));
    assert!(before.windows(2).all(|two| two[0].end < two[1].start));
    match wiped_on_fork(path, image, &before) {
        Ok(wiped) => assert_eq!(lazy(path, sized(&wiped)).unwrap(), []),
        Err(e) => damaged(&e, "mm-712.img"),
    }
}

/// What is stored comes back, and what may come late is in mappings that CRIU hands to the pager.
fn memory(mm: &[u8], map: &[u8]) {
    let medium = Arc::new(Pages::default());
    let mut foam = Foam::new(medium.clone());
    let open = |path: &Path| {
        let (content, length): (Box<dyn Read + '_>, u64) = match path.ends_with("pagemap-712.img") {
            true => (Box::new(map), map.len() as u64),
            false => (Box::new(io::repeat(7).take(PAGES * PAGE)), PAGES * PAGE),
        };
        Ok((content, length))
    };
    if let Err(e) = pagemap::read_in(Path::new("/images"), Owner::Process(PID), &mut foam, open) {
        return assert!(!e.to_string().is_empty());
    }
    foam.end_round();
    let handed = lazy(Path::new("mm-712.img"), sized(mm)).unwrap_or_default();
    foam.restrict_lazy(PID, &handed);
    let sealed = foam.seal();
    for extent in sealed.owners().flat_map(|(_, memory)| memory.extents()).filter(|extent| extent.lazy) {
        let (start, end) = (extent.start, extent.start + extent.pages * PAGE);
        assert!(handed.iter().any(|range| range.start <= start && end <= range.end));
    }
    comes_back(&sealed, medium);
}

/// It is written as it was read, and leads to no frame that does not exist.
fn table(bytes: &[u8]) {
    let Ok(table) = Table::decode(bytes) else { return };
    let written = table.encode();
    assert_eq!(Table::decode(&written).unwrap(), table);
    let (zero, run) = (Path::new("/dev/zero"), Run { start: 0, length: 3 * WINDOW });
    let frames = Pmem::open(&[run], &[zero.into()]).unwrap();
    let ram = Ram::open(Arc::new(frames), Disk::open(zero).unwrap(), table);
    let mut window = vec![0; WINDOW as usize];
    for row in written[16..].chunks_exact(8 + 4 * 512) {
        let (slot, row) = row.split_at(8);
        let slot = u64::from_le_bytes(slot.try_into().unwrap());
        // Others are refused with the index.
        if slot < 4 {
            let frame = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
            let exist = row.chunks_exact(4).map(frame).all(|frame| frame < FRAMES || frame == u32::MAX);
            assert_eq!(ram.read(slot * WINDOW, &mut window).is_ok(), exist);
        }
    }
}

fn sized(image: &[u8]) -> (&[u8], u64) {
    (image, image.len() as u64)
}

/// Nothing else can be wrong with what is in memory.
fn damaged(error: &ImageError, name: &str) {
    assert!(matches!(error, ImageError::Damaged { .. }) && error.to_string().contains(name), "{error}");
}
