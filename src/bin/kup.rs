//! The `kup` command.

fn main() {}
