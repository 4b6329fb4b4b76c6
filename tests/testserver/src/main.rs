//! Test server.

fn main() {}
