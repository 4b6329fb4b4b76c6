//! `cargo lab kernel`: Debian's kernel with the patches of `kernel-patches/`, as a package for the guest.

mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::image::{Firmware, Image};
use crate::interactive::prepare_host;
use crate::vm::{Spec, Vm};
use crate::{booted, host, paths, runner::rundir::RunDir, sh};

/// What a kernel's build needs on the host, beside what the lab needs anyway.
const NEEDED: &[&str] =
    &["bc", "bison", "cpio", "flex", "kmod", "libelf-dev", "libssl-dev", "patch", "rsync", "xz-utils"];

/// Modules that CRIU, kup and the scenarios load later; the guest's own are built anyway.
const MODULES: &str = "af_packet_diag dax_pmem device_dax inet_diag i6300esb kmem netlink_diag nd_e820 nd_pmem nf_conntrack \
    nf_tables nfnetlink nft_ct nft_reject_inet overlay softdog tcp_diag tun udp_diag unix_diag veth";

/// Debian's signing keys and debug information are of no use in the lab, and cost most of the time.
const SETTINGS: &[&str] = &[
    "--set-str",
    "SYSTEM_TRUSTED_KEYS",
    "",
    "--set-str",
    "SYSTEM_REVOCATION_KEYS",
    "",
    "--disable",
    "MODULE_SIG",
    "--disable",
    "DEBUG_INFO",
    "--enable",
    "DEBUG_INFO_NONE",
    "--disable",
    "DEBUG_INFO_BTF",
    "--disable",
    "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT",
];

/// Does it; gives the exit code.
pub fn run() -> Result<u8> {
    let patches = patches()?;
    if patches.is_empty() {
        println!("lab: kernel-patches/series names no patches: the guest runs Debian's own kernels");
        return Ok(0);
    }
    println!("{}", ensure(&patches)?.display());
    Ok(0)
}

/// The patches in the order of the series.
fn patches() -> Result<Vec<PathBuf>> {
    let dir = paths::source().join("kernel-patches");
    let series = fs::read_to_string(dir.join("series")).unwrap_or_default();
    let names =
        series.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|name| !name.is_empty());
    let patches: Vec<PathBuf> = names.map(|name| dir.join(name)).collect();
    match patches.iter().find(|patch| !patch.is_file()) {
        Some(missing) => bail!("kernel-patches/series names {}, which does not exist", missing.display()),
        None => Ok(patches),
    }
}

/// The package of the patched kernel: from the cache, or built now.
fn ensure(patches: &[PathBuf]) -> Result<PathBuf> {
    let image = prepare_host(Firmware::Bios)?;
    let dir = paths::cache()?.join("kernels").join(key(&image, patches)?);
    if let Ok(package) = find(&dir) {
        return Ok(package);
    }
    host::packages::ensure_these(NEEDED)?;
    println!("lab: building {} with {} patches (long, once)", image.about.new_kernel, patches.len());
    let run = RunDir::create()?;
    let modules = run.path().join("modules");
    fs::write(&modules, loaded_modules(&image, &run)?)?;
    let tree = source::unpack(&image.about.new_kernel, run.path())?;
    for patch in patches {
        sh::run(Command::new("patch").args(["-p1", "--forward", "-i"]).arg(patch).current_dir(&tree))?;
    }
    configure(&tree, &image.dir.join("config"), &modules)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    sh::run(make(&tree).args([
        &format!("-j{cores}"),
        "LOCALVERSION=-kup",
        "KDEB_PKGVERSION=1",
        "DPKG_FLAGS=-d",
        "bindeb-pkg",
    ]))?;
    let built = find(run.path())?;
    paths::ensure(&dir)?;
    let package = dir.join(built.file_name().context("the package has no name")?);
    fs::copy(&built, &package).context("cannot keep the kernel's package")?;
    Ok(package)
}

fn key(image: &Image, patches: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(&image.about.new_kernel);
    hash.update(MODULES);
    SETTINGS.iter().for_each(|setting| hash.update(setting));
    for patch in patches {
        hash.update(fs::read(patch).with_context(|| format!("cannot read {}", patch.display()))?);
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// What `lsmod` says in the guest with everything loaded that will be needed.
fn loaded_modules(image: &Image, run: &RunDir) -> Result<String> {
    let spec = Spec::new(run.path().join("vm"), image);
    let vm = Vm::copy_of(&booted::ensure(image, spec.memory)?, spec, booted::BOOTED)?;
    vm.ssh(&format!("for module in {MODULES}; do modprobe -q $module || true; done; lsmod"))
}

fn configure(tree: &Path, config: &Path, modules: &Path) -> Result<()> {
    fs::copy(config, tree.join(".config")).context("the image has no kernel configuration")?;
    sh::run(Command::new("scripts/config").args(SETTINGS).current_dir(tree))?;
    // New questions get their default answers.
    let mut fewer = make(tree);
    fewer.arg(format!("LSMOD={}", modules.display())).arg("localmodconfig");
    let out = sh::capture(&mut fewer, Some("\n".repeat(2000).as_bytes()), None)?;
    sh::check("make localmodconfig", out)?;
    sh::run(make(tree).arg("olddefconfig"))?;
    Ok(())
}

fn make(tree: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("--silent").current_dir(tree);
    make
}

fn find(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("linux-image-") && name.ends_with(".deb") && !name.contains("-dbg_") {
            return Ok(entry.path());
        }
    }
    bail!("there is no kernel package in {}", dir.display())
}
