//! The benchmarks of `cargo lab bench`, one file each. They measure with [`Ctx::figure`](crate::runner::context::Ctx::figure).

mod blackout;
mod by_hand;
mod by_kup;
mod chart;
mod console;
mod idle;
mod machine;
mod techniques;
mod throughput;
mod working_set;
mod writes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::cli::BenchArgs;
use crate::image::{self, Firmware};
use crate::runner::context::Figure;
use crate::runner::pool::{self, Options};
use crate::runner::report::Report;
use crate::scenario::Scenario;
use crate::{paths, runner, sh};

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    machine::SCENARIO,
    idle::SCENARIO,
    blackout::SCENARIO,
    techniques::SCENARIO,
    writes::SCENARIO,
    working_set::SCENARIO,
    throughput::SCENARIO,
];

/// `cargo lab bench`: one machine at a time, so that nothing disturbs it.
pub fn run(args: &BenchArgs) -> Result<u8> {
    if args.list {
        runner::list(ALL);
        return Ok(0);
    }
    if let Some(unknown) = args.names.iter().find(|name| !ALL.iter().any(|bench| bench.name == *name)) {
        bail!("there is no benchmark `{unknown}`: `cargo lab bench --list` shows them");
    }
    let chosen: Vec<&Scenario> =
        ALL.iter().filter(|bench| args.names.is_empty() || args.names.iter().any(|name| name == bench.name)).collect();
    let report = Report::default();
    pool::run(&chosen, Options { memory: args.memory, ..Options::default() }, &report)?;
    write(args, &report.all_figures())?;
    Ok(report.finish())
}

/// Where benchmarks leave what they have measured.
fn dir() -> Result<PathBuf> {
    let dir = paths::lab().join("bench");
    paths::ensure(&dir)?;
    Ok(dir)
}

/// Writes a file for each benchmark that has measured something, and all of them to the one that was asked for.
fn write(args: &BenchArgs, figures: &BTreeMap<String, Vec<Figure>>) -> Result<()> {
    let machine = surroundings(args.memory)?;
    let document = |figures: &BTreeMap<String, Vec<Figure>>| {
        serde_json::to_vec_pretty(&json!({ "machine": machine, "figures": figures }))
    };
    for (name, measured) in figures {
        let file = dir()?.join(format!("{name}.json"));
        put(&file, document(&BTreeMap::from([(name.clone(), measured.clone())]))?)?;
        println!("lab: {}", file.display());
    }
    args.json.as_deref().map_or(Ok(()), |file| put(file, document(figures)?))
}

fn put(file: &Path, bytes: Vec<u8>) -> Result<()> {
    fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

/// What figures have to be read with: they mean little without the machine they come from.
fn surroundings(memory: u32) -> Result<serde_json::Value> {
    let image = image::ensure(Firmware::Bios)?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let qemu = sh::run(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "accelerator": crate::host::kvm::accelerator(&image.kernel())?,
        "qemu": qemu.lines().next().unwrap_or_default(),
        "guest_memory_mib": memory,
        "old_kernel": image.about.old_kernel,
        "new_kernel": image.about.new_kernel,
    }))
}
