//! What says which memory is in which slot: the directory of a checkpoint's pages.
//!
//! All numbers are 64 bits, little-endian:
//!
//! ```text
//! "kupFOAM2", two words of XXH3 over all that follows, number of owners
//! owner:  kind (1 a process, 2 shared memory), its number, number of windows
//! window: its number, its slot, which pages are there (8 words), which of them are lazy (8 words),
//!         which of these are hot (8 words), XXH3 of each page that is there
//! ```

use std::collections::{BTreeMap, HashSet};

use xxhash_rust::xxh3::xxh3_128;

use super::WINDOW;
use super::window::{Set, Window};

/// Format and version.
const MAGIC: u64 = u64::from_le_bytes(*b"kupFOAM2");
/// Bytes before those that the digest covers.
const HEAD: usize = 24;
/// Addresses, and offsets on a medium, end here: more than any of today's machines has, and no sum runs over.
pub const END: u64 = 1 << 57;

/// Whose memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A process's own, by its PID.
    Process(i32),
    /// What processes share, by CRIU's number of it. Addresses are offsets in it.
    Shared(u64),
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Shared(id) => write!(f, "shared memory {id}"),
        }
    }
}

/// Windows of one owner, by their numbers.
pub type Windows = BTreeMap<u64, Window>;

/// All memory of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(pub BTreeMap<Owner, Windows>);

/// Why an index cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// It is something else, or of another kup.
    #[error("the index of its memory is none that this kup can read")]
    Foreign,
    /// It is not as it was written.
    #[error("the index of its memory is damaged")]
    Damaged,
    /// It says what cannot be.
    #[error("the index of its memory contradicts itself: {0}")]
    Absurd(&'static str),
}

impl Index {
    /// Writes one of what `owners` have, who are in order.
    pub fn encode<'a>(owners: impl ExactSizeIterator<Item = (Owner, &'a Windows)> + Clone) -> Vec<u8> {
        let words = |window: &Window| 26 + window.pages.iter().count();
        let total: usize = owners.clone().map(|(_, windows)| 3 + windows.values().map(words).sum::<usize>()).sum();
        let mut bytes = Vec::with_capacity(HEAD + 8 * (1 + total));
        bytes.resize(HEAD, 0);
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        put(owners.len() as u64);
        for (owner, windows) in owners {
            let (kind, id) = match owner {
                Owner::Process(pid) => (1, pid as u64),
                Owner::Shared(id) => (2, id),
            };
            [kind, id, windows.len() as u64].into_iter().for_each(&mut put);
            for (number, window) in windows {
                [*number, window.slot].into_iter().for_each(&mut put);
                [window.pages, window.lazy, window.hot].into_iter().flat_map(|set| set.0).for_each(&mut put);
                window.pages.iter().for_each(|page| put(window.sums[page]));
            }
        }
        let digest = xxh3_128(&bytes[HEAD..]);
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..HEAD].copy_from_slice(&digest.to_le_bytes());
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(IndexError::Foreign)?;
        if u64::from_le_bytes(*magic) != MAGIC {
            return Err(IndexError::Foreign);
        }
        let (digest, body) = rest.split_first_chunk().ok_or(IndexError::Damaged)?;
        if xxh3_128(body) != u128::from_le_bytes(*digest) {
            return Err(IndexError::Damaged);
        }
        self::body(body)
    }
}

/// Reads what the digest covers. Room is taken only for what is there.
///
/// # Errors
/// [`IndexError::Absurd`].
pub fn body(mut bytes: &[u8]) -> Result<Index, IndexError> {
    let (mut owners, mut slots) = (BTreeMap::new(), HashSet::new());
    for _ in 0..word(&mut bytes)? {
        let owner = owner(&mut bytes)?;
        if owners.last_key_value().is_some_and(|(last, _)| *last >= owner) {
            return Err(IndexError::Absurd("its owners are not in order"));
        }
        let mut windows = Windows::new();
        for _ in 0..word(&mut bytes)? {
            let (number, window) = window(&mut bytes, owner)?;
            if windows.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(IndexError::Absurd("its windows are not in order"));
            }
            if !slots.insert(window.slot) {
                return Err(IndexError::Absurd("two windows have one slot"));
            }
            windows.insert(number, window);
        }
        owners.insert(owner, windows);
    }
    if !bytes.is_empty() {
        return Err(IndexError::Absurd("it goes on behind its end"));
    }
    Ok(Index(owners))
}

fn word(bytes: &mut &[u8]) -> Result<u64, IndexError> {
    let (word, rest) = bytes.split_first_chunk().ok_or(IndexError::Absurd("it is cut off"))?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*word))
}

fn owner(bytes: &mut &[u8]) -> Result<Owner, IndexError> {
    match (word(bytes)?, word(bytes)?) {
        (1, pid) => match i32::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Owner::Process(pid)),
            _ => Err(IndexError::Absurd("no process has that number")),
        },
        (2, id) => Ok(Owner::Shared(id)),
        _ => Err(IndexError::Absurd("an owner of no known kind")),
    }
}

fn window(bytes: &mut &[u8], owner: Owner) -> Result<(u64, Window), IndexError> {
    let (number, slot) = (word(bytes)?, word(bytes)?);
    if number >= END / WINDOW || slot >= END / WINDOW {
        return Err(IndexError::Absurd("an address that no machine has"));
    }
    let mut window = Window::new(slot);
    for set in [&mut window.pages, &mut window.lazy, &mut window.hot] {
        for part in &mut set.0 {
            *part = word(bytes)?;
        }
    }
    if window.pages.is_empty() || !window.lazy.is_within(&window.pages) || !window.hot.is_within(&window.lazy) {
        return Err(IndexError::Absurd("a window without pages"));
    }
    if matches!(owner, Owner::Shared(_)) && window.lazy != Set::default() {
        return Err(IndexError::Absurd("shared memory that is lazy"));
    }
    for page in window.pages.iter() {
        window.sums[page] = word(bytes)?;
    }
    Ok((number, window))
}
