//! What is fuzzed: for each thing that parses bytes from outside, a function that takes any bytes and panics where a
//! promise is broken. `fuzz_targets/` hands them to libFuzzer, `tests/fuzz_corpus.rs` replays the corpora with them.

mod boot;
mod config;
mod criu;
mod criu_memory;
mod machine;
mod memory;
mod unit;
mod update;

pub use boot::{cmdline, grub};
pub use config::config;
pub use criu::{criu_images, criu_reply};
pub use criu_memory::criu_memory;
pub use machine::{netlink, proc};
pub use memory::{index as foam_index, page_stream};
pub use unit::unit;
pub use update::{history, record, request};

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("unit", unit),
    ("record", record),
    ("history", history),
    ("request", request),
    ("criu_reply", criu_reply),
    ("criu_images", criu_images),
    ("grub", grub),
    ("cmdline", cmdline),
    ("config", config),
    ("proc", proc),
    ("netlink", netlink),
    ("foam_index", foam_index),
    ("page_stream", page_stream),
    ("criu_memory", criu_memory),
];

/// The texts in an input that stands for several: ASCII's record separator is between them.
fn texts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|b| *b == 0x1e)
}

/// The files in an input that stands for several: four record separators are between them.
fn parts(data: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), data);
    while let Some(end) = rest.windows(4).position(|w| w == [0x1e; 4]) {
        parts.push(&rest[..end]);
        rest = &rest[end + 4..];
    }
    parts.push(rest);
    parts
}
