//! Memory of the process itself.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Item;
use crate::pattern::word;
use crate::raw::Words;

const MIB: usize = 1024 * 1024 / 8;

/// A large pattern on the heap.
pub struct Heap {
    words: Vec<u64>,
    sum: u64,
}

impl Heap {
    pub fn new(mib: usize) -> Self {
        let words: Vec<u64> = (0..(mib * MIB) as u64).map(|i| word(3, i)).collect();
        let sum = sum(&words);
        Self { words, sum }
    }
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |s, w| s.rotate_left(1) ^ w)
}

impl Item for Heap {
    fn name(&self) -> &'static str {
        "heap"
    }

    fn check(&mut self) -> Result<()> {
        let wrong = self.words.iter().enumerate().filter(|(i, w)| **w != word(3, *i as u64)).count();
        ensure!(wrong == 0, "{wrong} of {} words are wrong", self.words.len());
        let sum = sum(&self.words);
        ensure!(sum == self.sum, "its checksum is {sum:x} instead of {:x}", self.sum);
        Ok(())
    }

    fn facts(&self) -> Option<Value> {
        Some(json!({ "bytes": self.words.len() * 8, "sum": format!("{:x}", self.sum) }))
    }
}

/// Private memory that is given back and must then read as zero, as allocators and garbage collectors rely on.
pub struct Discarded {
    words: Words,
}

impl Discarded {
    pub fn new() -> Result<Self> {
        let words = Words::private(MIB)?;
        fill(&words);
        Ok(Self { words })
    }
}

fn fill(words: &Words) {
    words.iter().enumerate().for_each(|(i, w)| w.store(word(4, i as u64), Relaxed));
}

impl Item for Discarded {
    fn name(&self) -> &'static str {
        "discard"
    }

    fn check(&mut self) -> Result<()> {
        let kept = self.words.iter().enumerate().all(|(i, w)| w.load(Relaxed) == word(4, i as u64));
        self.words.discard()?;
        let old = self.words.iter().filter(|w| w.load(Relaxed) != 0).count();
        fill(&self.words);
        ensure!(kept, "private memory is not what was written");
        ensure!(old == 0, "{old} words that were given back are not zero");
        Ok(())
    }
}
