//! What an initrd of ours does, as the first process of the new kernel: it finds the root file system and becomes init there.
//!
//! Where that cannot be, it ends, at which the kernel panics: `panic=` on its command line resets the machine, and the old
//! kernel has the services back.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::{chroot, execv};

use super::plan::{PLAN, Plan};
use super::root::{Root, node};
use crate::kernel::cmdline;
use crate::paths::Paths;

/// Where the root file system is mounted first.
pub const MOUNTED: &str = "/root";
/// What is mounted for looking, and moved along; as initramfs-tools(7) mount it: where, what, how.
pub const MOUNTS: [Mount; 3] = [
    ("/proc", "proc", HARMLESS, None),
    ("/sys", "sysfs", HARMLESS, None),
    ("/dev", "devtmpfs", MsFlags::MS_NOSUID, Some("mode=0755")),
];
/// The same for machines whose distribution's initrd mounts it as well; else systemd does, with other options.
const RUN: Mount = ("/run", "tmpfs", HARMLESS, Some("size=10%,mode=0755"));
/// Tells systemd-fsck-root.service(8) that there is nothing to do.
const CHECKED: &str = "/run/initramfs/fsck-root";
const HARMLESS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// How long a device may take to be there.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// linux/magic.h.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Where, what, and how it is mounted.
type Mount = (&'static str, &'static str, MsFlags, Option<&'static str>);

/// Does it all.
///
/// # Errors
/// What could not be done.
pub fn run() -> Result<Infallible> {
    let begun = Instant::now();
    // What follows removes files: nowhere else than in an initrd.
    ensure!(std::process::id() == 1, "it is for an initrd alone");
    let kind = statfs("/").context("what is / ?")?.filesystem_type();
    ensure!([TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind), "/ is no initrd");
    let plan: Plan = serde_json::from_slice(&fs::read(PLAN).context(PLAN)?).context(PLAN)?;
    for (on, kind, flags, options) in MOUNTS {
        mount(Some(kind), on, Some(kind), flags, options).with_context(|| format!("{kind} on {on}"))?;
    }
    for module in &plan.modules {
        load(&module.file, &module.options)?;
    }
    let words = Words::of(&fs::read_to_string("/proc/cmdline")?);
    let device = wait_for(&plan.root)?;
    // Before it is mounted: that changes what is written there.
    let clean = !words.check && plan.root.is_clean(&device);
    mount(
        Some(&device),
        MOUNTED,
        Some(plan.root.kind.as_str()),
        words.flags(plan.writable && clean),
        words.options.as_deref(),
    )
    .with_context(|| format!("{} cannot be mounted", device.display()))?;
    tell(&format!("the root file system is on {}, found in {} ms", device.display(), begun.elapsed().as_millis()));
    if plan.run {
        let (on, kind, flags, options) = RUN;
        mount(Some(kind), &*format!("{MOUNTED}{on}"), Some(kind), flags, options).context(on)?;
        if clean {
            fs::create_dir_all(format!("{MOUNTED}/run/initramfs"))?;
            fs::write(format!("{MOUNTED}{CHECKED}"), "")?;
        }
    }
    enter(&plan.top)?;
    // Nobody waits for it here.
    let modprobe =
        Command::new("/sbin/modprobe").args(["-a", "-q", "-b"]).args(&plan.later).stdin(Stdio::null()).spawn();
    if let Err(e) = modprobe {
        tell(&format!("modprobe: {e}"));
    }
    become_init(&words.init)
}

/// One line for the kernel's log, of priority 6, info, and the daemon facility.
pub fn tell(line: &str) {
    let _ = fs::write("/dev/kmsg", format!("<30>kup-init: {}\n", line.replace('\n', " ")));
}

fn load(file: &str, options: &str) -> Result<()> {
    let module = File::open(file).with_context(|| format!("no {file}"))?;
    match finit_module(&module, &CString::new(options)?, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        // One of several drivers that may be for a device.
        Err(Errno::ENODEV) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("{file} cannot be loaded")),
    }
}

fn wait_for(root: &Root) -> Result<PathBuf> {
    let (paths, begun) = (Paths::host(), Instant::now());
    loop {
        match root.find(&paths)?.as_slice() {
            [] => ensure!(begun.elapsed() < WITHIN, "the root file system did not appear"),
            [device] => return Ok(node(device)),
            several => bail!("the root file system may be on any of these: {}", several.join(", ")),
        }
        thread::sleep(POLL);
    }
}

/// Makes what is mounted there the root of everything, and removes what the initrd has brought.
fn enter(top: &[String]) -> Result<()> {
    for (on, ..) in MOUNTS {
        let there = format!("{MOUNTED}{on}");
        mount(Some(on), there.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>).with_context(|| there.clone())?;
    }
    for name in top {
        let path = Path::new("/").join(name);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(e) = removed {
            tell(&format!("{} stays: {e}", path.display()));
        }
    }
    std::env::set_current_dir(MOUNTED)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("cannot move the root file system")?;
    chroot(".").context("cannot enter the root file system")?;
    Ok(std::env::set_current_dir("/")?)
}

/// With the words that the kernel has left for it.
fn become_init(init: &str) -> Result<Infallible> {
    let arguments = [OsString::from(init)].into_iter().chain(std::env::args_os().skip(1));
    let arguments = arguments.map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
    execv(&CString::new(init)?, &arguments).with_context(|| format!("{init} cannot be started"))
}

/// What the command line says of the root file system, as initramfs-tools(7) reads it.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    init: String,
    writable: bool,
    /// Is it to be checked whatever it says itself?
    check: bool,
    options: Option<String>,
}

impl Words {
    fn of(line: &str) -> Self {
        let mut words = Self { init: "/sbin/init".into(), writable: false, check: false, options: None };
        for word in cmdline::split(line).into_iter().take_while(|word| *word != "--") {
            match word.split_once('=') {
                None if word == "rw" => words.writable = true,
                None if word == "ro" => words.writable = false,
                None if word == "forcefsck" => words.check = true,
                Some(("fsck.mode", mode)) => words.check = mode == "force",
                Some(("init", path)) => words.init = path.into(),
                Some(("rootflags", options)) => words.options = Some(options.trim_matches('"').into()),
                _ => {}
            }
        }
        words
    }

    fn flags(&self, writable: bool) -> MsFlags {
        if writable || self.writable { MsFlags::empty() } else { MsFlags::MS_RDONLY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_elsewhere() {
        assert!(run().unwrap_err().to_string().contains("initrd alone"));
    }

    #[test]
    fn words_about_the_root_file_system() {
        let words = |line| Words::of(line);
        assert_eq!(words("quiet"), Words { init: "/sbin/init".into(), writable: false, check: false, options: None });
        let all = Words { init: "/bin/sh".into(), writable: true, check: true, options: Some("noatime,x=1".into()) };
        assert_eq!(words("ro rootflags=noatime,x=1 rw init=/bin/sh fsck.mode=force -- ro"), all);
    }
}
