//! Stands in a freshly built sandbox until the restored service takes it over.
//!
//! It may run under any SystemCallFilter= that lets a C program start, so it has C's `main`: Rust's own start-up code
//! makes system calls (poll, sigaltstack) that such a filter may forbid.
#![no_main]
#![allow(unsafe_code)]

/// Waits for a signal to end it.
// SAFETY: no other symbol of this program is called `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    loop {
        nix::unistd::pause();
    }
}
