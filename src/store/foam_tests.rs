use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::store::index::body as index_body;
use crate::store::{Extent, IndexError, Memory};

/// A medium for tests.
#[derive(Default)]
pub(crate) struct Ram(Mutex<Vec<u8>>);

impl Ram {
    fn flip(&self, at: usize) {
        self.0.lock().unwrap()[at] ^= 1;
    }
}

impl Medium for Ram {
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(offset % WINDOW + data.len() as u64 <= WINDOW, "within a slot");
        let (mut all, offset) = (self.0.lock().unwrap(), offset as usize);
        let length = all.len().max(offset + data.len());
        all.resize(length, 0);
        all[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        assert!(offset % WINDOW + data.len() as u64 <= WINDOW, "within a slot");
        let all = self.0.lock().unwrap();
        let from = all.get(offset as usize..offset as usize + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        data.copy_from_slice(from);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

const OWNERS: [Owner; 3] = [Owner::Process(7), Owner::Process(712), Owner::Shared(7)];
/// A page in the midst of the address space, shortly before a window's end.
const BASE: u64 = 0x7f00_0000_0000 / PAGE + 500;
/// Pages that a test uses: they lie in four windows.
const SPAN: u64 = 1100;

/// What a page holds: none is like another.
pub(crate) fn page(seed: u64) -> Vec<u8> {
    seed.to_le_bytes().repeat(PAGE as usize / 8)
}

/// A page: what it holds, whether it may be late, whether it is needed first.
type Page = (u64, bool, bool);
type Model = BTreeMap<Owner, BTreeMap<u64, Page>>;

/// A step of a round: pages from an offset on that are written, or those of them that were there before and are kept.
#[derive(Debug, Clone)]
enum Step {
    Write { from: u64, pages: u64, lazy: bool },
    Keep { from: u64, pages: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SPAN, prop_oneof![9 => 1..4u64, 1 => 500..520u64]);
    prop_oneof![
        (range.clone(), any::<bool>()).prop_map(|((from, pages), lazy)| Step::Write { from, pages, lazy }),
        range.prop_map(|(from, pages)| Step::Keep { from, pages }),
        Just(Step::Keep { from: 0, pages: SPAN + 600 }),
    ]
}

/// Steps for each owner; `None` leaves it out of the round.
fn rounds() -> impl Strategy<Value = Vec<Vec<Option<Vec<Step>>>>> {
    let owner = prop::option::weighted(0.8, prop::collection::vec(step(), 0..5));
    prop::collection::vec(prop::collection::vec(owner, OWNERS.len()), 1..5)
}

/// One owner's part of a round, of FOAM and of the model.
fn take(foam: &mut Foam, owner: Owner, steps: &[Step], earlier: &Model, seed: &mut u64) -> BTreeMap<u64, Page> {
    let (none, mut now) = (BTreeMap::new(), BTreeMap::new());
    let before = earlier.get(&owner).unwrap_or(&none);
    assert_eq!(foam.knows(owner), earlier.contains_key(&owner));
    foam.begin(owner).unwrap();
    for step in steps {
        match *step {
            Step::Write { from, pages, lazy } => {
                let first = *seed;
                *seed += pages;
                let data: Vec<u8> = (first..*seed).flat_map(page).collect();
                foam.write(owner, (BASE + from) * PAGE, &data, lazy).unwrap();
                let lazy = lazy && matches!(owner, Owner::Process(_));
                let hot = lazy && earlier.contains_key(&owner);
                now.extend((0..pages).map(|n| (BASE + from + n, (first + n, lazy, hot))));
            }
            Step::Keep { from, pages } => {
                for (number, had) in before.range(BASE + from..BASE + from + pages) {
                    foam.keep(owner, number * PAGE, 1).unwrap();
                    now.entry(*number).or_insert((had.0, had.1, false));
                }
            }
        }
    }
    now
}

fn run(foam: &mut Foam, rounds: &[Vec<Option<Vec<Step>>>]) -> Model {
    let (mut model, mut seed) = (Model::new(), 1);
    for round in rounds {
        let parts = OWNERS.iter().zip(round).filter_map(|(owner, steps)| Some((*owner, steps.as_ref()?)));
        model = parts.map(|(owner, steps)| (owner, take(foam, owner, steps, &model, &mut seed))).collect();
        foam.end_round();
    }
    model
}

fn compare(sealed: &Sealed, model: &Model) {
    assert_eq!(sealed.owners().map(|(owner, _)| owner).collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
    for ((_, memory), pages) in sealed.owners().zip(model.values()) {
        let single = |e: &Extent| (0..e.pages).map(|n| (e.start / PAGE + n, e.lazy)).collect::<Vec<_>>();
        let listed: Vec<_> = memory.extents().iter().flat_map(single).collect();
        assert_eq!(listed, pages.iter().map(|(number, (_, lazy, _))| (*number, *lazy)).collect::<Vec<_>>());
        let hot = pages.iter().filter(|(_, (_, _, hot))| *hot).map(|(number, _)| number * PAGE);
        assert_eq!(memory.hot(), hot.collect::<Vec<_>>());
        for pair in memory.extents().windows(2) {
            assert!(pair[0].start + pair[0].pages * PAGE < pair[1].start || pair[0].lazy != pair[1].lazy);
        }
        for extent in memory.extents() {
            let mut data = vec![0; (extent.pages * PAGE) as usize];
            memory.read(extent.start, &mut data).unwrap();
            let expected: Vec<u8> = (0..extent.pages).flat_map(|n| page(pages[&(extent.start / PAGE + n)].0)).collect();
            assert!(data == expected, "{:#x}", extent.start);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn rounds_are_as_the_model_says(rounds in rounds()) {
        let medium = Arc::new(Ram::default());
        let mut foam = Foam::new(medium.clone());
        let model = run(&mut foam, &rounds);
        let sealed = foam.seal();
        compare(&sealed, &model);
        compare(&Sealed::open(&sealed.index(), medium).unwrap(), &model);
    }

    #[test]
    fn any_bytes_are_an_error_or_an_index(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(index) = index_body(&bytes) {
            let again = Index::encode(index.0.iter().map(|(owner, windows)| (*owner, windows)));
            prop_assert_eq!(&again[24..], bytes);
        }
    }
}

/// Two processes, some 1000 pages.
fn stored() -> (Arc<Ram>, Sealed) {
    let medium = Arc::new(Ram::default());
    let mut foam = Foam::new(medium.clone());
    for owner in &OWNERS[..2] {
        foam.begin(*owner).unwrap();
        let data: Vec<u8> = (1..500).flat_map(page).collect();
        foam.write(*owner, BASE * PAGE, &data, true).unwrap();
    }
    foam.end_round();
    (medium, foam.seal())
}

#[test]
fn a_damaged_index_is_refused() {
    let (medium, sealed) = stored();
    let index = sealed.index();
    for length in (0..index.len()).step_by(97).chain([23, 24, index.len() - 1]) {
        assert!(Sealed::open(&index[..length], medium.clone()).is_err(), "{length}");
    }
    for bit in (0..index.len() * 8).step_by(331).chain(0..64) {
        let mut flipped = index.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let expected = if bit < 64 { IndexError::Foreign } else { IndexError::Damaged };
        assert_eq!(Sealed::open(&flipped, medium.clone()).err(), Some(expected), "{bit}");
    }
    assert_eq!(Sealed::open(b"elephant", medium).err(), Some(IndexError::Foreign));
}

/// A process with three pages in one window, and shared memory with one: little enough to try everything.
fn small() -> (Arc<Ram>, Sealed) {
    let medium = Arc::new(Ram::default());
    let mut foam = Foam::new(medium.clone());
    foam.begin(OWNERS[0]).unwrap();
    foam.write(OWNERS[0], BASE * PAGE, &[page(1), page(2)].concat(), true).unwrap();
    foam.write(OWNERS[0], (BASE + 3) * PAGE, &page(3), false).unwrap();
    foam.begin(OWNERS[2]).unwrap();
    foam.write(OWNERS[2], 0, &page(4), false).unwrap();
    foam.end_round();
    (medium, foam.seal())
}

#[test]
fn an_index_is_refused_for_any_byte_that_lacks_and_any_bit_that_differs() {
    let (medium, sealed) = small();
    let index = sealed.index();
    for length in 0..index.len() {
        assert!(Sealed::open(&index[..length], medium.clone()).is_err(), "{length} bytes");
    }
    for bit in 0..index.len() * 8 {
        let mut flipped = index.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Sealed::open(&flipped, medium.clone()).is_err(), "bit {bit}");
    }
    assert!(Sealed::open(&[index.as_slice(), &[0]].concat(), medium.clone()).is_err(), "a byte more");
    assert!(Sealed::open(&index, medium).is_ok());
}

/// Where each page of [`small`] lies in its slots: nowhere else do bits matter.
const PLACES: [(Owner, u64, u64); 4] = [
    (OWNERS[0], BASE, BASE % 512),
    (OWNERS[0], BASE + 1, BASE % 512 + 1),
    (OWNERS[0], BASE + 3, BASE % 512 + 3),
    (OWNERS[2], 0, 512),
];

fn read(sealed: &Sealed, (owner, number, _): (Owner, u64, u64)) -> io::Result<()> {
    let mut owners = sealed.owners();
    let (_, memory) = owners.find(|(o, _)| *o == owner).unwrap();
    memory.read(number * PAGE, &mut page(0))
}

#[test]
fn slots_that_are_cut_off_are_refused_from_there_on() {
    let (medium, sealed) = small();
    for length in (0..513 * PAGE).rev().step_by(1023) {
        medium.0.lock().unwrap().truncate(length as usize);
        for place in PLACES {
            let there = (place.2 + 1) * PAGE <= length;
            assert_eq!(read(&sealed, place).is_ok(), there, "{place:?} of {length} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_flipped_bit_in_a_slot_is_refused_where_it_lies(page in 0..513usize, byte in 0..PAGE as usize, bit in 0..8u32) {
        let (medium, sealed) = small();
        // Half of them where there is a page.
        let page = PLACES.get(page % 8).map_or(page, |place| place.2 as usize);
        medium.0.lock().unwrap()[page * PAGE as usize + byte] ^= 1 << bit;
        for place in PLACES {
            prop_assert_eq!(read(&sealed, place).is_err(), place.2 as usize == page);
        }
    }
}

/// Its digest is right, but somebody has made it up.
#[test]
fn an_absurd_index_is_refused() {
    let (_, sealed) = stored();
    let words: Vec<u64> =
        sealed.index()[24..].chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
    assert_eq!(words[..5], [2, 1, 7, 2, BASE * PAGE / WINDOW]);
    let second = 1 + 3 + 2 * 26 + 499;
    assert_eq!(words[second..second + 3], [1, 712, 2]);
    for (at, value) in [
        (0, u64::MAX),   // owners
        (1, 3),          // a kind
        (2, 0),          // a PID
        (2, u64::MAX),   // another
        (3, 1 << 60),    // windows
        (4, u64::MAX),   // an address
        (5, u64::MAX),   // a slot
        (5, 1),          // the slot of another
        (14, 1),         // lazy, not there
        (22, 1),         // needed first, not lazy
        (second + 1, 7), // an owner that was there
        (second + 3, 0), // a window out of order
        (second + 2, 1), // one window too few
    ] {
        let mut words = words.clone();
        words[at] = value;
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let result = index_body(&bytes);
        // An order that is merely another one is noticed only where it is wrong.
        assert!(matches!(result, Err(IndexError::Absurd(_))) || (at, value) == (second + 3, 0), "{at}: {result:?}");
    }
}

#[test]
fn damaged_memory_is_named() {
    let (medium, sealed) = stored();
    let memory = sealed.process(712).unwrap();
    let mut data = page(0);
    memory.read((BASE + 20) * PAGE, &mut data).unwrap();
    // The slots are in the order in which they were first needed: the third is process 712's first one.
    medium.flip((2 * WINDOW + (500 + 5) * PAGE) as usize + 77);
    let text = |e: io::Error| e.to_string();
    let why = text(memory.read((BASE + 3) * PAGE, &mut [0; 4 * PAGE as usize]).unwrap_err());
    assert!(why.contains("process 712") && why.contains(&format!("{:#x}", (BASE + 5) * PAGE)), "{why}");
    memory.read((BASE + 6) * PAGE, &mut data).unwrap();
    sealed.process(7).unwrap().read((BASE + 5) * PAGE, &mut data).unwrap();

    let why = text(memory.read((BASE + 498) * PAGE, &mut [0; 2 * PAGE as usize]).unwrap_err());
    assert!(why.contains(&format!("{:#x} was not stored", (BASE + 499) * PAGE)), "{why}");
    for address in [0, END, u64::MAX - PAGE + 1] {
        memory.read(address, &mut data).unwrap_err();
    }
    medium.0.lock().unwrap().truncate(WINDOW as usize);
    assert!(text(memory.read(BASE * PAGE, &mut data).unwrap_err()).contains("memory of process 712 at"));
}

#[test]
fn what_cannot_be_stored_is_an_error() {
    let mut foam = Foam::new(Arc::new(Ram::default()));
    let [owner, ..] = OWNERS;
    assert!(matches!(foam.write(owner, 0, &page(1), true), Err(FoamError::NotBegun(_))));
    foam.begin(owner).unwrap();
    assert!(matches!(foam.begin(owner), Err(FoamError::Twice(_))));
    assert!(matches!(foam.keep(owner, PAGE, 1), Err(FoamError::Missing(_, PAGE))));
    for (address, pages) in [(1, 1), (END, 1), (0, u64::MAX), (u64::MAX - PAGE + 1, 2), (PAGE, END / PAGE)] {
        assert!(matches!(foam.keep(owner, address, pages), Err(FoamError::Range(..))), "{address:#x}");
    }
    foam.write(owner, END - PAGE, &page(1), true).unwrap();
    foam.end_round();
    foam.begin(owner).unwrap();
    let why = foam.keep(owner, END - 2 * PAGE, 2).unwrap_err().to_string();
    assert_eq!(why, format!("process 7 has nothing stored at {:#x}, which is said to be unchanged", END - 2 * PAGE));
}

/// A window that is gone makes room for another; one that lives on keeps its place.
#[test]
fn slots_are_used_again() {
    let medium = Arc::new(Ram::default());
    let mut foam = Foam::new(medium.clone());
    let [first, second, _] = OWNERS;
    for round in 1..10 {
        foam.begin(first).unwrap();
        foam.write(first, round * WINDOW, &page(round), true).unwrap();
        foam.begin(second).unwrap();
        match round {
            1 => foam.write(second, 0, &page(77), true).unwrap(),
            _ => foam.keep(second, 0, 1).unwrap(),
        }
        foam.end_round();
    }
    assert!(medium.0.lock().unwrap().len() as u64 <= 3 * WINDOW);
    let mut data = page(0);
    foam.seal().process(712).unwrap().read(0, &mut data).unwrap();
    assert_eq!(data, page(77));
}

#[test]
fn only_mappings_that_may_be_late_are_late() {
    let mut foam = Foam::new(Arc::new(Ram::default()));
    let [owner, ..] = OWNERS;
    foam.begin(owner).unwrap();
    foam.write(owner, WINDOW - PAGE, &[page(1), page(2), page(3)].concat(), true).unwrap();
    foam.write(owner, 2 * WINDOW, &page(4), false).unwrap();
    foam.end_round();
    foam.restrict_lazy(7, &[0..WINDOW, WINDOW + PAGE..WINDOW + 2 * PAGE]);
    let sealed = foam.seal();
    let extent = |start, lazy| Extent { start, pages: 1, lazy };
    let expected =
        [extent(WINDOW - PAGE, true), extent(WINDOW, false), extent(WINDOW + PAGE, true), extent(2 * WINDOW, false)];
    assert_eq!(sealed.process(7).unwrap().extents(), expected);
}
