//! kup's lab: runs kup in a real Debian virtual machine, with a real boot loader and a real network peer.

pub mod bench;
pub mod booted;
pub mod cli;
pub mod client;
pub mod deb;
pub mod demo;
pub mod fuzz;
pub mod guest;
pub mod host;
pub mod image;
pub mod interactive;
pub mod kernel;
pub mod paths;
pub mod ready;
pub mod runner;
pub mod scenario;
pub mod sh;
pub mod spawner;
pub mod toolchain;
pub mod vm;

use anyhow::Result;
use cli::{Cli, Verb};

/// Does what the command line says; gives the exit code.
pub fn run(cli: &Cli) -> Result<u8> {
    host::become_root()?;
    match &cli.verb {
        Verb::Demo => demo::run(),
        Verb::Test(args) => runner::test(args),
        Verb::Soak(args) => runner::soak(args),
        Verb::Bench(args) => bench::run(args),
        Verb::Vm(args) => interactive::run(args),
        Verb::Kernel => kernel::run(),
        Verb::Fuzz(args) => fuzz::run(args),
        Verb::Deb => interactive::deb(),
    }
}
