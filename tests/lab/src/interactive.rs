//! `cargo lab vm`: machines for people.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::VmArgs;
use crate::image::{self, Firmware, Image};
use crate::runner::rundir::RunDir;
use crate::vm::{BOOT_LIMIT, GUEST, Spec, Vm, detached, namespace, state_dir};
use crate::{host, ready, sh};

/// Commands given on the command line may take long; whoever typed them can interrupt them.
const NO_HURRY: Duration = Duration::from_secs(24 * 3600);

/// Does what the options say; gives the exit code.
pub fn run(args: &VmArgs) -> Result<u8> {
    if let Some(command) = &args.run {
        let dir = RunDir::create()?;
        let vm = fresh(dir.path().join("vm"), args, false)?;
        return execute(&vm, command);
    }
    if args.detach {
        return detach(args);
    }
    if args.acts_on_detached() {
        let vm = detached()?.context("no detached machine runs: start one with `cargo lab vm --detach`")?;
        return on_detached(vm, args);
    }
    let dir = RunDir::create()?;
    let vm = fresh(dir.path().join("vm"), args, false)?;
    println!("lab: a shell in the machine; its end ends the machine. Console: {}", vm.spec().serial().display());
    vm.shell()?;
    Ok(0)
}

fn on_detached(mut vm: Vm, args: &VmArgs) -> Result<u8> {
    if let Some(command) = &args.exec {
        return execute(&vm, command);
    }
    if let Some([local, remote]) = args.put.as_deref() {
        vm.put(local, &remote.to_string_lossy())?;
    } else if let Some([remote, local]) = args.get.as_deref() {
        vm.get(&remote.to_string_lossy(), local)?;
    } else if let Some(command) = &args.peer {
        let status = vm.peer().command("sh").args(["-c", command]).status()?;
        return Ok(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1));
    } else if args.reset {
        vm.loadvm(ready::first_state(&vm.spec().image.clone()))?;
    } else if args.power_cut {
        vm.power_cut()?;
        vm.save_state()?;
    } else if args.wait {
        vm.wait_ssh(BOOT_LIMIT)?;
    } else if args.shell {
        vm.shell()?;
    } else if args.stop {
        vm.stop()?;
    }
    Ok(0)
}

fn execute(vm: &Vm, command: &str) -> Result<u8> {
    let out = vm.try_ssh(command, NO_HURRY)?;
    print!("{}", out.stdout);
    eprint!("{}", out.stderr);
    Ok(out.code.try_into().unwrap_or(1))
}

fn detach(args: &VmArgs) -> Result<u8> {
    if detached()?.is_some() {
        bail!("a detached machine runs already: `cargo lab vm --stop` ends it");
    }
    let vm = fresh(state_dir(), args, true)?;
    let (netns, serial, image) = (vm.peer().name().to_owned(), vm.spec().serial(), vm.spec().image.clone());
    vm.detach()?;
    println!("lab: the machine {}. Use it with", ready::describe(&image));
    println!("  cargo lab vm --exec CMD | --put LOCAL REMOTE | --get REMOTE LOCAL | --shell | --wait");
    println!("  cargo lab vm --reset (back to this state, also after a kexec) | --power-cut | --stop");
    println!("  ip netns exec {netns} curl http://{GUEST}/ (the peer's side); console: {}", serial.display());
    Ok(0)
}

/// A machine in its ready state.
fn fresh(dir: PathBuf, args: &VmArgs, detached: bool) -> Result<Vm> {
    let image = prepare_host(if args.uefi { Firmware::Uefi } else { Firmware::Bios })?;
    let spec = Spec { detached, memory: args.memory, ..Spec::new(dir, &image) };
    if args.bare { ready::prepare_bare(spec) } else { ready::prepare(spec) }
}

/// Everything that a machine needs.
pub fn prepare_host(firmware: Firmware) -> Result<Image> {
    host::packages::ensure()?;
    if firmware == Firmware::Uefi {
        image::ensure_uefi_host()?;
    }
    namespace::clear_stale()?;
    image::ensure(firmware)
}

/// `cargo lab deb`.
pub fn deb() -> Result<u8> {
    host::packages::ensure()?;
    let package = crate::deb::build()?;
    let file = &package.path;
    let contents = sh::run(std::process::Command::new("dpkg-deb").arg("--contents").arg(file))?;
    print!("{contents}");
    println!("{}", file.display());
    Ok(0)
}
