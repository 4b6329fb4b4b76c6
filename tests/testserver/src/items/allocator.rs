//! Memory as glibc's allocator hands it out: small blocks that come and go (what is free goes back to the kernel by
//! MADV_DONTNEED), large ones that grow and shrink (mremap), and forked children that read theirs and write to it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Item;
use crate::pattern::word;
use crate::raw;

const MIB: usize = 1024 * 1024 / 8;
/// Words of a block that comes from an arena.
const SMALL: usize = MIB / 10;
/// Words of a block that has a mapping of its own, when it is not grown and when it is.
const LARGE: [usize; 2] = [4 * MIB, 6 * MIB];
/// A check takes one small block of so many, another one each time.
const TURNS: usize = 8;

/// Blocks of both sizes.
pub struct Allocator {
    small: Vec<Block>,
    large: Vec<Block>,
    checks: usize,
    seed: u64,
}

/// Memory that is one stream's pattern.
#[derive(Default)]
struct Block {
    seed: u64,
    words: Vec<u64>,
}

impl Block {
    /// From calloc(3), which trusts the kernel that new memory is zero.
    fn new(seed: u64, len: usize) -> Result<Self> {
        let mut words = vec![0; len];
        let dirty = words.iter().filter(|w| **w != 0).count();
        ensure!(dirty == 0, "{dirty} of {len} new words are not zero");
        fill(seed, 0, &mut words);
        Ok(Self { seed, words })
    }

    fn is_intact(&self) -> bool {
        self.words.iter().zip(0..).all(|(w, i)| *w == word(self.seed, i))
    }

    fn check(&self) -> Result<()> {
        let wrong = self.words.iter().zip(0..).position(|(w, i)| *w != word(self.seed, i));
        ensure!(wrong.is_none(), "word {wrong:?} of {} of block {} is wrong", self.words.len(), self.seed);
        Ok(())
    }

    /// By realloc(3), which moves the mapping.
    fn resize(&mut self, len: usize) {
        let before = self.words.len();
        self.words.reserve_exact(len.saturating_sub(before));
        self.words.resize(len, 0);
        self.words.shrink_to_fit();
        fill(self.seed, before.min(len), &mut self.words);
    }
}

/// Writes a stream, from the word `first` on.
fn fill(seed: u64, first: usize, words: &mut [u64]) {
    words.iter_mut().zip(0..).skip(first).for_each(|(w, i)| *w = word(seed, i));
}

impl Allocator {
    /// About half of `mib` in small blocks.
    pub fn new(mib: usize) -> Result<Self> {
        // Half of a large one; glibc's own would grow with each that is freed.
        raw::mmap_threshold(LARGE[0] * 4)?;
        let mut new = Self { small: Vec::new(), large: Vec::new(), checks: 0, seed: 1 << 32 };
        new.small = new.blocks(mib * MIB / 2 / SMALL, SMALL)?;
        new.large = new.blocks((mib / 8).max(1), LARGE[0])?;
        Ok(new)
    }

    fn blocks(&mut self, count: usize, len: usize) -> Result<Vec<Block>> {
        let seeds = self.seed..self.seed + count as u64;
        self.seed = seeds.end;
        seeds.map(|seed| Block::new(seed, len)).collect()
    }

    /// Small blocks go, their memory goes back, and new ones come.
    fn renew(&mut self) -> Result<()> {
        let turn = self.checks % TURNS;
        for block in self.small.iter_mut().skip(turn).step_by(TURNS) {
            block.check()?;
            *block = Block::default();
        }
        raw::trim();
        for block in self.small.iter_mut().skip(turn).step_by(TURNS) {
            *block = Block::new(self.seed, SMALL)?;
            self.seed += 1;
        }
        Ok(())
    }

    fn resize(&mut self) -> Result<()> {
        let turn = self.checks % self.large.len();
        let block = &mut self.large[turn];
        block.check()?;
        let len = if block.words.len() == LARGE[0] { LARGE[1] } else { LARGE[0] };
        block.resize(len);
        block.check()
    }

    /// A child finds its parent's memory, and writes to a copy of its own.
    fn fork(&mut self) -> Result<()> {
        let turn = (self.checks + 1) % self.large.len();
        let (block, small) = (&mut self.large[turn], &self.small);
        let fine = raw::forked(|| {
            let found = block.is_intact() && small.iter().skip(1).step_by(TURNS).all(Block::is_intact);
            block.seed += 1;
            fill(block.seed, 0, &mut block.words);
            found && block.is_intact()
        })?;
        ensure!(fine, "a forked child has other memory");
        block.check()
    }
}

impl Item for Allocator {
    fn name(&self) -> &'static str {
        "allocator"
    }

    fn check(&mut self) -> Result<()> {
        self.checks += 1;
        self.fork()?;
        self.resize()?;
        self.renew()
    }

    fn facts(&self) -> Option<Value> {
        Some(json!({ "checks": self.checks, "blocks": self.small.len() + self.large.len() }))
    }
}
