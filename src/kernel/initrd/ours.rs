//! An initrd of ours, for a root file system that lies on a device as it is: the modules for that, and `kup-init`, which finds
//! it, has others loaded from there, and goes on.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::archive::Archive;
use super::depends::{self, Needed};
use super::init::{MOUNTED, MOUNTS};
use super::mkinitramfs::{self, CONFIGURED};
use super::plan::{Module, PLAN, Plan};
use super::root::Root;
use crate::command;
use crate::criu;
use crate::inspect::host;
use crate::net::links::drivers;
use crate::paths::Paths;

/// The first program.
const INIT: &str = "/usr/libexec/kup/kup-init";
/// What a restore has the kernel load besides: what locks the network, and what CRIU asks.
const LATER: [&str; 1] = ["nf_tables"];

/// Builds it for kernel `release` as `image`.
///
/// # Errors
/// Why this machine needs another one.
pub fn build(paths: &Paths, release: &str, image: &Path) -> Result<()> {
    no_scripts(paths)?;
    let (root, device) = Root::of_this_machine(paths)?;
    let (mut drivers_of, aliases) = behind(&device);
    drivers_of.push(root.kind.clone());
    let needed = depends::of(release, &drivers_of, &aliases)?;
    let mut archive = Archive::create(image)?;
    for directory in MOUNTS.map(|(on, ..)| on).into_iter().chain([MOUNTED]) {
        archive.directory(directory)?;
    }
    // What the program begins with, before devtmpfs is there.
    archive.device("/dev/console", 5, 1)?;
    archive.device("/dev/null", 1, 3)?;
    archive.file("/init", &fs::read(INIT).context(INIT)?)?;
    for library in libraries(&command::run(Path::new("/usr/bin/ldd"), &[INIT])?)? {
        archive.file(library, &fs::read(library).with_context(|| library.to_owned())?)?;
    }
    let mut modules = Vec::new();
    for (number, Needed { file, options }) in needed.into_iter().enumerate() {
        let firmware = command::run(Path::new("/usr/sbin/modinfo"), &["-F", "firmware", &file.to_string_lossy()])?;
        ensure!(firmware.trim().is_empty(), "{} needs firmware", file.display());
        let name = format!("/kup/{number:02}.ko");
        archive.file(&name, &content(&file)?)?;
        modules.push(Module { file: name, options });
    }
    let later = drivers::of_all(paths).into_iter().chain(LATER.iter().chain(&criu::MODULES).map(|m| (*m).to_owned()));
    let stay: Vec<&str> = MOUNTS.iter().map(|(on, ..)| &on[1..]).chain([&MOUNTED[1..]]).collect();
    let top = archive.top().filter(|name| !stay.contains(name)).map(str::to_owned).chain(["init".into()]).collect();
    let run = paths.at(CONFIGURED).exists();
    let writable = host::root_is_writable(paths);
    let plan = Plan { modules, root, later: later.collect(), writable, run, top };
    archive.file(PLAN, &serde_json::to_vec(&plan)?)?;
    Ok(archive.finish()?)
}

/// Scripts of the administrator's are to be run in each boot.
fn no_scripts(paths: &Paths) -> Result<()> {
    match mkinitramfs::script(paths) {
        Some(script) => bail!("there is {}", script.display()),
        None => Ok(()),
    }
}

/// Modules that drive the devices behind `device`, a directory in /sys, and the devices' aliases: another kernel may have
/// other modules for them.
fn behind(device: &Path) -> (Vec<String>, Vec<String>) {
    let (mut modules, mut aliases) = (Vec::new(), Vec::new());
    // The outermost first: a bus is there before what hangs on it.
    let above: Vec<&Path> = device.ancestors().take_while(|path| !path.ends_with("devices")).collect();
    for path in above.into_iter().rev() {
        let module = fs::read_link(path.join("driver/module")).ok();
        modules.extend(module.and_then(|module| Some(module.file_name()?.to_str()?.to_owned())));
        aliases.extend(fs::read_to_string(path.join("modalias")).ok().map(|alias| alias.trim().to_owned()));
    }
    (modules, aliases)
}

/// Paths in what ldd(1) says: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", or the path alone for the loader.
fn libraries(said: &str) -> Result<Vec<&str>> {
    let paths: Vec<&str> = said.split_whitespace().filter(|word| word.starts_with('/')).collect();
    if paths.is_empty() || said.contains("not found") {
        bail!("ldd says: {}", said.trim());
    }
    Ok(paths)
}

/// A module's file, unpacked: the target may not be able to, and services would stand still for it.
fn content(file: &Path) -> Result<Vec<u8>> {
    let (name, packed) = (file.display(), fs::read(file).with_context(|| file.display().to_string())?);
    let mut content = Vec::new();
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return Ok(packed),
        Some("xz") => XzReader::new(packed.as_slice(), true).read_to_end(&mut content),
        Some("zst") => StreamingDecoder::new(packed.as_slice())?.read_to_end(&mut content),
        _ => bail!("{name} is packed in a way of its own"),
    }
    .with_context(|| format!("{name} cannot be unpacked"))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_a_program() {
        let said = "\tlinux-vdso.so.1 (0x00007f70)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f71)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f72)\n";
        assert_eq!(libraries(said).unwrap(), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(libraries("\tlibx.so => not found\n\t/lib/ld.so (0x1)\n").is_err());
        assert!(libraries("\tstatically linked\n").is_err());
    }

    #[test]
    fn modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        // printf module | xz --check=crc32 --lzma2=dict=1MiB; printf module | zstd
        let xz = b"\xfd7zXZ\x00\x00\x01i\"\xde6\x02\x00!\x01\x10\x00\x00\x00\xa8p\x8e\x86\x01\x00\x05module\x00\x00\
                   \x00(&$\x0c\x00\x01\x1a\x06\xc5\xea\xc8y\x90B\x99\r\x01\x00\x00\x00\x00\x01YZ";
        let zst = b"(\xb5/\xfd\x04X1\x00\x00module]\x89\xa9\x8d";
        for (name, packed) in [("a.ko", b"module".as_slice()), ("a.ko.xz", xz), ("a.ko.zst", zst)] {
            let file = dir.path().join(name);
            fs::write(&file, packed).unwrap();
            assert_eq!(content(&file).unwrap(), b"module", "{name}");
        }
        let (broken, other) = (dir.path().join("b.ko.xz"), dir.path().join("b.ko.lz4"));
        fs::write(&broken, &xz[..30]).unwrap();
        fs::write(&other, "x").unwrap();
        assert!(content(&broken).is_err() && content(&other).is_err());
    }

    #[test]
    fn what_is_behind_a_device() {
        let dir = tempfile::tempdir().unwrap();
        let (pci, virtio) = (dir.path().join("devices/pci0/0000:00:03.0"), "virtio2");
        let disk = pci.join(virtio).join("block/vda/vda1");
        fs::create_dir_all(&disk).unwrap();
        for (path, module) in [(pci.clone(), "virtio_pci"), (pci.join(virtio), "virtio_blk")] {
            fs::write(path.join("modalias"), format!("of:{module}\n")).unwrap();
            fs::create_dir_all(path.join("driver")).unwrap();
            std::os::unix::fs::symlink(format!("../../module/{module}"), path.join("driver/module")).unwrap();
        }
        let expected = ["virtio_pci", "virtio_blk"];
        assert_eq!(behind(&disk), (expected.map(String::from).into(), expected.map(|m| format!("of:{m}")).into()));
    }

    #[test]
    fn scripts_of_the_administrator_count() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        no_scripts(&paths).unwrap();
        let stage = paths.at(CONFIGURED).join("scripts/init-premount");
        fs::create_dir_all(&stage).unwrap();
        no_scripts(&paths).unwrap();
        fs::write(stage.join("unlock-it"), "").unwrap();
        assert!(no_scripts(&paths).unwrap_err().to_string().contains("unlock-it"));
    }
}
