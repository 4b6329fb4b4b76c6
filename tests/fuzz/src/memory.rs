//! Memory on its way into FOAM, and what says where it is.

use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use kup::criu::page_server::serve;
use kup::fuzz::foam_index;
use kup::store::{Foam, Index, Medium, Memory, PAGE, Sealed};

/// The part of an index that its digest covers.
pub fn index(data: &[u8]) {
    let Ok(index) = foam_index(data) else { return };
    let whole = Index::encode(index.0.iter().map(|(owner, windows)| (*owner, windows)));
    assert_eq!(&whole[24..], data);
    let sealed = Sealed::open(&whole, Arc::new(Pages::default())).unwrap();
    for (_, memory) in sealed.owners() {
        for extent in memory.extents() {
            memory.read(extent.start, &mut [0; PAGE as usize]).unwrap_err();
        }
    }
}

/// What a CRIU says to the page server in two rounds; four record separators are between them.
pub fn page_stream(data: &[u8]) {
    let medium = Arc::new(Pages::default());
    let mut foam = Foam::new(medium.clone());
    let end = data.windows(4).position(|w| w == [0x1e; 4]).unwrap_or(data.len());
    for round in [&data[..end], data.get(end + 4..).unwrap_or_default()] {
        let mut wire = Wire(Cursor::new(round));
        match serve(&mut wire, &mut foam) {
            Ok(()) => {}
            Err(e) => return assert!(!e.to_string().is_empty()),
        }
    }
    comes_back(&foam.seal(), medium);
}

/// All of `sealed`, which is on `medium`, is found by its index, and read.
pub(super) fn comes_back(sealed: &Sealed, medium: Arc<Pages>) {
    let again = Sealed::open(&sealed.index(), medium).unwrap();
    for ((owner, memory), (same, read)) in sealed.owners().zip(again.owners()) {
        assert_eq!((owner, memory.extents()), (same, read.extents()));
        for extent in read.extents() {
            for page in 0..extent.pages {
                read.read(extent.start + page * PAGE, &mut [0; PAGE as usize]).unwrap();
            }
        }
    }
}

/// A medium of which only what was written takes room. What was not is an error.
#[derive(Default)]
pub(super) struct Pages(Mutex<HashMap<u64, Vec<u8>>>);

impl Medium for Pages {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let pages = (offset..).step_by(PAGE as usize).zip(data.chunks(PAGE as usize));
        self.0.lock().unwrap().extend(pages.map(|(at, page)| (at, page.to_vec())));
        Ok(())
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let pages = self.0.lock().unwrap();
        for (at, page) in (offset..).step_by(PAGE as usize).zip(data.chunks_mut(PAGE as usize)) {
            page.copy_from_slice(pages.get(&at).ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Nobody listens to the answers.
struct Wire<'a>(Cursor<&'a [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
