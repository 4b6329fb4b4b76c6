//! What the server answers, line by line, on TCP and on its control socket:
//!
//! | line | answer |
//! | --- | --- |
//! | `ping` | `pong` |
//! | `set KEY VALUE` | `ok`; the value is the rest of the line |
//! | `get KEY` | `value VALUE`, or `none` |
//! | `count` | how many requests there were, this one included |
//! | `check` | `ok ITEM` or `FAIL ITEM: why` for each item, then `.` |
//! | `check ITEM` | `ok ITEM` or `FAIL ITEM: why` for this one |
//! | `state` | one line of JSON |
//! | `log TEXT` | `ok`; prints TEXT on standard output, so that it comes to the journal |
//! | `big N [RATE]` | `big N`, then N bytes at RATE bytes/s (256 KiB/s), then a line break and `sum FNV-1A-64` |
//!
//! Anything else gets `error: why`. The bytes of `big` are [`pattern::bytes`] of [`BIG`].

use std::io::{self, BufRead, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::pattern::{self, Fnv};
use crate::server::Server;

/// The stream that `big` sends.
pub const BIG: u64 = 7;
const RATE: u64 = 256 * 1024;
const SLICE: Duration = Duration::from_millis(20);

/// Serves one connection until its peer closes it.
pub fn serve(server: &Server, requests: impl BufRead, mut replies: impl Write) -> io::Result<()> {
    for line in requests.lines() {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        server.counted();
        match (verb, rest) {
            ("big", size) => big(size, &mut replies)?,
            ("check", "") => replies.write_all((server.check(|_| true) + ".\n").as_bytes())?,
            _ => replies.write_all((answer(server, verb, rest) + "\n").as_bytes())?,
        }
        replies.flush()?;
    }
    Ok(())
}

fn answer(server: &Server, verb: &str, rest: &str) -> String {
    match (verb, rest) {
        ("ping", "") => "pong".into(),
        ("count", "") => server.requests().to_string(),
        ("check", name) => match server.check(|item| item == name).trim_end() {
            "" => format!("error: what is the item '{name}'?"),
            line => line.into(),
        },
        ("state", "") => server.state().to_string(),
        ("get", key) => server.get(key).map_or("none".into(), |value| format!("value {value}")),
        ("set", pair) => match pair.split_once(' ') {
            Some((key, value)) => server.set(key, value).map_or_else(|e| format!("error: {e:#}"), |()| "ok".into()),
            None => "error: set KEY VALUE".into(),
        },
        ("log", text) => {
            println!("{text}");
            "ok".into()
        }
        _ => format!("error: what is '{verb} {rest}'?"),
    }
}

fn big(args: &str, replies: &mut impl Write) -> io::Result<()> {
    let mut numbers = args.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(size)), rate) = (numbers.next(), numbers.next().unwrap_or(Ok(RATE)).unwrap_or(0)) else {
        return writeln!(replies, "error: big N [RATE]");
    };
    if rate == 0 {
        return writeln!(replies, "error: RATE is a number above 0");
    }
    writeln!(replies, "big {size}")?;
    let (began, mut sum) = (Instant::now(), Fnv::new());
    let slice = (rate / (1000 / SLICE.as_millis() as u64)).clamp(8, 64 * 1024) / 8;
    for first in (0..size.div_ceil(8)).step_by(slice as usize) {
        let mut bytes: Vec<u8> = (first..first + slice).flat_map(|i| pattern::word(BIG, i).to_le_bytes()).collect();
        bytes.truncate((size - first * 8).min(slice * 8) as usize);
        sum.add(&bytes);
        replies.write_all(&bytes)?;
        replies.flush()?;
        let due = Duration::from_secs_f64((first * 8 + bytes.len() as u64) as f64 / rate as f64);
        thread::sleep(due.saturating_sub(began.elapsed()));
    }
    writeln!(replies, "\nsum {:x}", sum.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_is_the_pattern() {
        for size in [0, 1, 8, 1001] {
            let mut sent = Vec::new();
            big(&format!("{size} 100000000"), &mut sent).unwrap();
            let head = format!("big {size}\n");
            let bytes = pattern::bytes(BIG, size);
            let mut sum = Fnv::new();
            sum.add(&bytes);
            assert_eq!(&sent[head.len()..head.len() + size], bytes);
            assert_eq!(sent[head.len() + size..], *format!("\nsum {:x}\n", sum.0).as_bytes());
        }
        let mut sent = Vec::new();
        big("many", &mut sent).unwrap();
        assert_eq!(sent, b"error: big N [RATE]\n");
    }
}
