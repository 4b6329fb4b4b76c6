//! The intervals against the plainest thing that does the same: a map from each page to the page of its image.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// Pages of the address space that the tests play in.
const SPACE: u64 = 1200;

#[derive(Debug, Clone)]
enum Step {
    Fault(u64),
    Next {
        finish: bool,
    },
    Remove(u64, u64),
    Remap(u64, u64, u64),
    Fork,
    /// What was looked up earlier and is reported only now.
    Late,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = 0..SPACE;
    let step = prop_oneof![
        4 => page.clone().prop_map(Step::Fault),
        4 => any::<bool>().prop_map(|finish| Step::Next { finish }),
        2 => (page.clone(), 0..200u64).prop_map(|(start, len)| Step::Remove(start, len)),
        2 => (page.clone(), page.clone(), 1..200u64).prop_map(|(from, to, len)| Step::Remap(from, to, len)),
        1 => Just(Step::Fork),
        1 => Just(Step::Late),
    ];
    proptest::collection::vec(step, 0..60)
}

fn begin() -> impl Strategy<Value = BTreeSet<u64>> {
    proptest::collection::vec((0..SPACE, 1..90u64), 0..12)
        .prop_map(|runs| runs.into_iter().flat_map(|(start, len)| start..start + len).collect())
}

/// Addresses that are needed first, whether or not anything is missing there.
fn begin_hot() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::btree_set(0..SPACE, 0..20)
        .prop_map(|pages| pages.into_iter().map(|page| page * PAGE).collect())
}

/// Pages by where they are now, in pages.
type Model = BTreeMap<u64, u64>;

fn model_of(missing: &Missing) -> Model {
    let pages = |p: &Piece| {
        let (start, image) = (p.start / PAGE, p.image / PAGE);
        (0..p.len / PAGE).map(move |n| (start + n, image + n))
    };
    missing.pieces.values().flat_map(pages).collect()
}

fn finish(model: &mut Model, piece: &Piece) {
    for n in 0..piece.len / PAGE {
        let (page, image) = (piece.start / PAGE + n, piece.image / PAGE + n);
        if model.get(&page) == Some(&image) {
            model.remove(&page);
        }
    }
}

fn remap(model: &mut Model, from: u64, to: u64, len: u64) {
    let moved: Vec<_> = (from..from + len).filter_map(|page| Some((page, model.remove(&page)?))).collect();
    model.retain(|page, _| !(to..to + len).contains(page));
    model.extend(moved.into_iter().map(|(page, image)| (page - from + to, image)));
}

proptest! {
    #[test]
    fn as_the_model(begin in begin(), hot in begin_hot(), steps in steps()) {
        // One piece a page: what can be joined must not matter.
        let mut missing = Missing::new(begin.iter().map(|page| (page * PAGE, PAGE))).hot(&hot);
        let mut model: Model = begin.iter().map(|page| (*page, *page)).collect();
        let mut late: Vec<Piece> = Vec::new();
        for step in steps {
            match step {
                Step::Fault(page) => {
                    let piece = missing.around(page * PAGE);
                    prop_assert_eq!(piece.is_some(), model.contains_key(&page));
                    let Some(piece) = piece else { continue };
                    prop_assert!(piece.start <= page * PAGE && piece.end() > page * PAGE && piece.len <= NEIGHBOURHOOD);
                    missing.done(&piece);
                    finish(&mut model, &piece);
                }
                Step::Next { finish: now } => match missing.take_next() {
                    Some(piece) => {
                        prop_assert!(piece.image / WINDOW == (piece.image + piece.len - 1) / WINDOW);
                        prop_assert_eq!(missing.still(&piece).iter().map(|p| p.len).sum::<u64>(), piece.len);
                        prop_assert!(late.iter().all(|l| l.end() <= piece.start || l.start >= piece.end()));
                        if now {
                            missing.done(&piece);
                            missing.release(&piece);
                            finish(&mut model, &piece);
                        } else {
                            late.push(piece);
                        }
                    }
                    None => prop_assert!(model.is_empty() || !late.is_empty()),
                },
                Step::Remove(start, len) => {
                    let any = (start..start + len).any(|page| model.contains_key(&page));
                    prop_assert_eq!(missing.remove(start * PAGE, (start + len) * PAGE), any);
                    model.retain(|page, _| !(start..start + len).contains(page));
                }
                Step::Remap(from, to, len) if from + len <= to || to + len <= from => {
                    missing.remap(from * PAGE, to * PAGE, len * PAGE);
                    remap(&mut model, from, to, len);
                }
                Step::Remap(..) => {}
                Step::Fork => {
                    missing = missing.fork();
                    late.clear();
                }
                Step::Late => for piece in late.drain(..) {
                    missing.done(&piece);
                    missing.release(&piece);
                    finish(&mut model, &piece);
                },
            }
            prop_assert_eq!(model_of(&missing), model.clone());
            prop_assert_eq!((missing.bytes(), missing.is_empty()), (model.len() as u64 * PAGE, model.is_empty()));
        }
        for piece in late {
            missing.release(&piece);
        }
        while let Some(piece) = missing.take_next() {
            missing.done(&piece);
            missing.release(&piece);
        }
        prop_assert!(missing.is_empty(), "the background brings everything in the end");
    }
}

#[test]
fn the_background_begins_small_grows_and_goes_on_behind_a_fault() {
    let mut missing = Missing::new([(0, 8 * WINDOW)]);
    let take = |missing: &mut Missing| missing.take_next().map(|p| (p.start, p.len)).unwrap();
    assert_eq!(take(&mut missing), (0, NEIGHBOURHOOD));
    assert_eq!(take(&mut missing), (NEIGHBOURHOOD, 2 * NEIGHBOURHOOD));
    let fault = missing.around(5 * WINDOW + 3 * PAGE).unwrap();
    assert_eq!((fault.start, fault.len), (5 * WINDOW, NEIGHBOURHOOD));
    missing.done(&fault);
    assert_eq!(take(&mut missing), (5 * WINDOW + NEIGHBOURHOOD, NEIGHBOURHOOD));
    let pursuer = missing.around(5 * WINDOW + NEIGHBOURHOOD).unwrap();
    missing.done(&pursuer);
    assert_eq!(take(&mut missing), (5 * WINDOW + 2 * NEIGHBOURHOOD, 2 * NEIGHBOURHOOD), "it stays ahead");
}

#[test]
fn what_is_hot_comes_first_and_once() {
    let hot = [WINDOW + PAGE, WINDOW + 2 * PAGE, 3 * WINDOW + NEIGHBOURHOOD - PAGE, 3 * WINDOW + NEIGHBOURHOOD];
    let mut missing = Missing::new([(0, 2 * WINDOW), (3 * WINDOW, NEIGHBOURHOOD + PAGE)]).hot(&hot);
    let take = |missing: &mut Missing| missing.take_next().map(|p| (p.start, p.len)).unwrap();
    assert_eq!(take(&mut missing), (WINDOW, NEIGHBOURHOOD));
    missing.remove(3 * WINDOW, 3 * WINDOW + PAGE);
    assert_eq!(take(&mut missing), (3 * WINDOW + PAGE, NEIGHBOURHOOD - PAGE));
    assert_eq!(take(&mut missing), (3 * WINDOW + NEIGHBOURHOOD, PAGE));
    assert_eq!(take(&mut missing), (0, NEIGHBOURHOOD), "then all in order");
}

#[test]
fn a_page_that_moved_in_is_not_the_one_that_is_done() {
    let mut missing = Missing::new([(0, PAGE), (10 * PAGE, PAGE)]);
    let first = missing.around(0).unwrap();
    assert!(missing.remove(0, PAGE));
    assert!(missing.remap(10 * PAGE, 0, PAGE));
    missing.done(&first);
    assert_eq!(missing.around(0), Some(Piece { start: 0, len: PAGE, image: 10 * PAGE }));
}
