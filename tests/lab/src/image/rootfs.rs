//! The guest's root directory: mmdebstrap, then a script in the chroot.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{About, Firmware, files};
use crate::host::mirror;
use crate::sh;

/// Debian's release.
pub const SUITE: &str = "trixie";

/// Stock packages of the guest, beside the essential ones.
const PACKAGES: &[&str] = &[
    "apt",
    "ca-certificates",
    "criu",
    "curl",
    "dbus",
    "e2fsprogs",
    "grub-pc",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kexec-tools",
    "kmod",
    "libcap2-bin",
    "memcached",
    "nftables",
    "nginx",
    "openssh-server",
    "polkitd",
    "procps",
    "python3-minimal",
    "redis-server",
    "redis-tools",
    "strace",
    "systemd",
    "systemd-sysv",
    "tar",
    "udev",
    "zstd",
];

const CUSTOMIZE: &str = include_str!("../../image/customize.sh");
const REPACK: &str = include_str!("../../image/repack.sh");

/// What the result depends on.
pub fn recipe() -> Vec<&'static str> {
    [&[SUITE, CUSTOMIZE, REPACK], PACKAGES].concat()
}

/// Makes `dir/root`, and `dir/vmlinuz`, `dir/initrd.img` and `dir/config` of its installed kernel.
pub fn build(dir: &Path) -> Result<About> {
    let root = dir.join("root");
    bootstrap(&root)?;
    let overlay = dir.join("files");
    files::write(&overlay)?;
    let key = fs::read_to_string(dir.join("id.pub")).context("cannot read the ssh key")?;
    files::put(&overlay, "root/.ssh/authorized_keys", &key)?;
    let customize = files::put_script(dir, "customize.sh", CUSTOMIZE)?;
    let repack = files::put_script(dir, "repack.sh", REPACK)?;
    let mut cmd = Command::new("unshare");
    cmd.args(["--mount", "--propagation", "private"]).args([&customize, &root, &overlay, &repack]);
    // The network's names are resolved in the chroot as on the host.
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).ok();
    let kernels = sh::run(&mut cmd)?;
    let mut kernels = kernels.lines().map(str::to_owned);
    let (Some(old_kernel), Some(new_kernel)) = (kernels.next(), kernels.next()) else {
        bail!("the image's script named no kernels");
    };
    for name in ["vmlinuz", "initrd.img", "config"] {
        let file = root.join(format!("boot/{name}-{old_kernel}"));
        fs::copy(&file, dir.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(About { old_kernel, new_kernel, firmware: Firmware::Bios })
}

fn bootstrap(root: &Path) -> Result<()> {
    let mirror = mirror::of_host();
    let mut cmd = Command::new("mmdebstrap");
    cmd.args(["--quiet", "--mode=root", "--variant=minbase", "--components=main"]);
    cmd.arg(format!("--include={}", PACKAGES.join(",")));
    cmd.arg("--essential-hook=echo grub-pc grub-pc/install_devices_empty boolean true | chroot \"$1\" debconf-set-selections");
    cmd.arg(SUITE).arg(root);
    cmd.arg(format!("deb {} {SUITE} main", mirror.debian));
    cmd.arg(format!("deb {} {SUITE}-updates main", mirror.debian));
    cmd.arg(format!("deb {} {SUITE}-security main", mirror.security));
    sh::run(cmd.env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(())
}
