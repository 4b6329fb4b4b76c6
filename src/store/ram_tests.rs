use std::path::Path;
use std::sync::Mutex;

use super::*;
use crate::store::{Foam, Memory, Owner, Sealed};

/// A few frames in ordinary memory.
struct Few(Mutex<(Vec<[u8; PAGE as usize]>, Vec<u32>)>);

impl Few {
    fn new(count: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new((vec![[0; PAGE as usize]; count as usize], (0..count).rev().collect()))))
    }
}

impl Frames for Few {
    fn read(&self, frame: u32, data: &mut [u8]) -> io::Result<()> {
        let frames = &self.0.lock().unwrap().0;
        data.chunks_exact_mut(PAGE as usize).zip(&frames[frame as usize..]).for_each(|(d, f)| d.copy_from_slice(f));
        Ok(())
    }

    fn write(&self, frame: u32, data: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().0[frame as usize].copy_from_slice(data);
        Ok(())
    }

    fn take(&self, count: usize) -> Vec<u32> {
        let free = &mut self.0.lock().unwrap().1;
        (0..count).filter_map(|_| free.pop()).collect()
    }

    fn give(&self, frames: &mut dyn Iterator<Item = u32>) {
        self.0.lock().unwrap().1.extend(frames);
    }
}

const OWNER: Owner = Owner::Process(7);

fn page(n: u8) -> Vec<u8> {
    vec![n; PAGE as usize]
}

fn ram(frames: &Arc<Few>, dir: &Path, copied: bool) -> Arc<Ram> {
    Arc::new(Ram::new(frames.clone(), Disk::create(&dir.join("slots")).unwrap(), copied))
}

/// Stores ten pages, in two rounds; gives the index and the table as they are written.
fn store(ram: &Arc<Ram>) -> (Vec<u8>, Vec<u8>) {
    let mut foam = Foam::new(ram.clone());
    for round in 0..2 {
        foam.begin(OWNER).unwrap();
        for n in 0..10 {
            foam.write(OWNER, WINDOW - 5 * PAGE + u64::from(n) * PAGE, &page(n + round * 100), true).unwrap();
        }
        foam.end_round();
    }
    let index = foam.seal().index();
    (index, ram.table().encode())
}

fn read(sealed: &Sealed, n: u8) -> io::Result<Vec<u8>> {
    let mut data = page(0);
    sealed.process(7).unwrap().read(WINDOW - 5 * PAGE + u64::from(n) * PAGE, &mut data)?;
    Ok(data)
}

#[test]
fn what_does_not_fit_is_on_the_disk() {
    for (room, on_disk) in [(10, 0), (12, 0), (6, 9)] {
        let (frames, dir) = (Few::new(room), tempfile::tempdir().unwrap());
        let (index, table) = store(&ram(&frames, dir.path(), false));
        let length = std::fs::metadata(dir.path().join("slots")).unwrap().len();
        assert_eq!(length > 0, on_disk > 0, "{room} frames");
        let table = Table::decode(&table).unwrap();
        assert_eq!(table.bytes(), u64::from(room).min(10) * PAGE);
        let again = Ram::open(frames, Disk::open(&dir.path().join("slots")).unwrap(), table);
        let sealed = Sealed::open(&index, Arc::new(again)).unwrap();
        for n in 0..10 {
            assert_eq!(read(&sealed, n).unwrap(), page(n + 100));
        }
        let mut all = vec![0; 10 * PAGE as usize];
        sealed.process(7).unwrap().read(WINDOW - 5 * PAGE, &mut all).unwrap();
        assert!(all.chunks(PAGE as usize).zip(100..).all(|(data, n)| data == page(n)));
    }
}

#[test]
fn a_copy_stands_in_for_frames_that_changed() {
    for copied in [true, false] {
        let (frames, dir) = (Few::new(10), tempfile::tempdir().unwrap());
        let ram = ram(&frames, dir.path(), copied);
        let (index, _) = store(&ram);
        frames.0.lock().unwrap().0[3][17] ^= 1;
        let sealed = Sealed::open(&index, ram).unwrap();
        assert_eq!(read(&sealed, 2).unwrap(), page(102));
        assert_eq!(read(&sealed, 3).ok(), copied.then(|| page(103)));
        if copied {
            let slots = dir.path().join("slots");
            std::fs::write(&slots, vec![0; std::fs::metadata(&slots).unwrap().len() as usize]).unwrap();
            assert!(read(&sealed, 3).unwrap_err().to_string().contains("has changed"));
            assert_eq!(read(&sealed, 2).unwrap(), page(102), "what is whole needs no copy");
        }
    }
}

#[test]
fn what_is_forgotten_can_be_used_again() {
    let (frames, dir) = (Few::new(10), tempfile::tempdir().unwrap());
    let ram = ram(&frames, dir.path(), false);
    store(&ram);
    assert!(frames.take(1).is_empty());
    ram.forget();
    assert_eq!(frames.take(20).len(), 10);
    assert!(Table::decode(b"").is_err() && Table::decode(&[0; 16]).is_err());
    assert!(Table::decode(&[ram.table().encode(), vec![1]].concat()).is_err());
}
