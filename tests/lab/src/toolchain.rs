//! Compilers of the guest's own Debian, for programs in other languages that run in the guest. They are unpacked once, into
//! the cache, and called there in a chroot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host::mirror;
use crate::image::SUITE;
use crate::{paths, sh};

const PACKAGES: &str = "golang-go,openjdk-21-jdk-headless";
const GO: &str = "/usr/lib/go-1.24/bin/go";
const JDK: &str = "/usr/lib/jvm/java-21-openjdk-amd64/bin";
/// Where sources and results are, in the chroot.
const WORK: &str = "/work";
/// The command's own mounts end with it. The programs need no shell there, and there is none.
const IN_CHROOT: &str = "mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" \"$@\"";

/// A directory with compilers in it.
#[derive(Debug)]
pub struct Toolchain {
    root: PathBuf,
    _lock: fs::File,
}

/// From the cache, or unpacked now. As long as it is held, no other lab uses it.
pub fn ensure() -> Result<Toolchain> {
    let cache = paths::cache()?;
    paths::ensure(&cache)?;
    let lock = fs::File::create(cache.join("toolchain.lock")).context("cannot write to the cache")?;
    lock.lock().context("cannot lock the toolchain")?;
    let root = cache.join(format!("toolchain-{SUITE}"));
    if !root.exists() {
        println!("lab: unpacking {PACKAGES}, once");
        let unfinished = cache.join(".toolchain");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).context("cannot remove an unfinished toolchain")?;
        }
        unpack(&unfinished)?;
        fs::rename(&unfinished, &root).context("cannot move the toolchain to its place")?;
    }
    Ok(Toolchain { root, _lock: lock })
}

/// Nothing is configured: the compilers are found by their paths.
fn unpack(root: &Path) -> Result<()> {
    let mut cmd = Command::new("mmdebstrap");
    cmd.args(["--quiet", "--mode=root", "--variant=extract", "--components=main"]);
    cmd.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(root);
    cmd.arg(format!("deb {} {SUITE} main", mirror::of_host().debian));
    sh::run(&mut cmd)?;
    for name in ["lib", "lib64"] {
        let link = root.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(format!("usr/{name}"), link)?;
        }
    }
    for name in ["proc", "dev"] {
        paths::ensure(&root.join(name))?;
    }
    Ok(())
}

impl Toolchain {
    /// Builds the Go program `name`.go, which is linked statically; gives where it is.
    pub fn go(&self, name: &str, source: &str) -> Result<PathBuf> {
        self.write(&format!("{name}.go"), source)?;
        self.call(GO, &["build", "-trimpath", "-o", &at(name), &at(&format!("{name}.go"))])?;
        Ok(self.work().join(name))
    }

    /// Builds the Java program `class`.java; gives an archive with its classes, and in `jre` what runs them.
    pub fn java(&self, class: &str, source: &str) -> Result<PathBuf> {
        self.write(&format!("{class}.java"), source)?;
        self.call(&format!("{JDK}/javac"), &["-d", &at("java"), &at(&format!("{class}.java"))])?;
        if !self.work().join("java/jre").exists() {
            let options =
                ["--strip-java-debug-attributes", "--no-header-files", "--no-man-pages", "--add-modules", "java.base"];
            self.call(&format!("{JDK}/jlink"), &[&options[..], &["--output", &at("java/jre")]].concat())?;
        }
        let archive = self.work().join("java.tar.gz");
        sh::run(Command::new("tar").arg("-C").arg(self.work()).arg("-czf").arg(&archive).arg("java"))?;
        Ok(archive)
    }

    fn work(&self) -> PathBuf {
        self.root.join(&WORK[1..])
    }

    fn write(&self, name: &str, source: &str) -> Result<()> {
        paths::ensure(&self.work())?;
        fs::write(self.work().join(name), source).with_context(|| format!("cannot write {name}"))
    }

    fn call(&self, program: &str, args: &[&str]) -> Result<()> {
        let mut cmd = Command::new("unshare");
        cmd.args(["--mount", "--propagation", "private", "sh", "-c", IN_CHROOT])
            .arg(&self.root)
            .arg(program)
            .args(args);
        cmd.env("HOME", WORK).env("CGO_ENABLED", "0").env("GO111MODULE", "off");
        sh::run(&mut cmd).map(drop)
    }
}

fn at(name: &str) -> String {
    format!("{WORK}/{name}")
}
