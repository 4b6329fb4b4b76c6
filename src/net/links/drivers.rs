//! The kernel modules that drive links. One that is loaded by its name need not wait for udev to find the device.

use std::fs;

use crate::paths::Paths;

/// Links, by name.
pub(super) const LINKS: &str = "/sys/class/net";
/// NET_NAME_ENUM of linux/netdevice.h: a name that the kernel has made up, and that udev may replace.
const MADE_UP: &str = "1";

/// Is `link` there without anybody having made it?
pub fn is_device(paths: &Paths, link: &str) -> bool {
    paths.at(LINKS).join(link).join("device").exists()
}

/// The module that drives `link`; `None` where it is built in, or the link is no device.
pub fn of(paths: &Paths, link: &str) -> Option<String> {
    let module = fs::read_link(paths.at(LINKS).join(link).join("device/driver/module")).ok()?;
    Some(module.file_name()?.to_str()?.to_owned())
}

/// The one device with hardware address `mac`, by a name that nobody has given it yet.
pub fn with_kernels_name(paths: &Paths, mac: &str) -> Option<String> {
    let read = |link: &str, file: &str| fs::read_to_string(paths.at(LINKS).join(link).join(file)).unwrap_or_default();
    let mut same = names(paths).filter(|link| is_device(paths, link) && read(link, "address").trim() == mac);
    let (first, second) = (same.next()?, same.next());
    (second.is_none() && read(&first, "name_assign_type").trim() == MADE_UP).then_some(first)
}

/// The modules that drive all links of this machine.
pub fn of_all(paths: &Paths) -> Vec<String> {
    let mut modules: Vec<String> = names(paths).filter_map(|link| of(paths, &link)).collect();
    modules.sort();
    modules.dedup();
    modules
}

/// All links of this network namespace.
fn names(paths: &Paths) -> impl Iterator<Item = String> {
    let links = fs::read_dir(paths.at(LINKS)).into_iter().flatten().flatten();
    links.filter_map(|link| link.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_still_be_given() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let add = |link: &str, mac: &str, how: &str| {
            let link = paths.at(LINKS).join(link);
            fs::create_dir_all(link.join("device")).unwrap();
            fs::write(link.join("address"), format!("{mac}\n")).unwrap();
            fs::write(link.join("name_assign_type"), format!("{how}\n")).unwrap();
        };
        add("eth0", "52:54:00:00:00:01", "1");
        add("enp3s0", "52:54:00:00:00:02", "4");
        assert_eq!(with_kernels_name(&paths, "52:54:00:00:00:01").as_deref(), Some("eth0"));
        assert_eq!(with_kernels_name(&paths, "52:54:00:00:00:02"), None, "it was named");
        assert_eq!(with_kernels_name(&paths, "52:54:00:00:00:03"), None);
        add("eth1", "52:54:00:00:00:01", "1");
        assert_eq!(with_kernels_name(&paths, "52:54:00:00:00:01"), None, "two have it");
    }

    #[test]
    fn modules_of_links_that_are_devices() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        assert!(of_all(&paths).is_empty());
        for (link, module) in [("eth1", Some("virtio_net")), ("eth0", Some("virtio_net")), ("lo", None)] {
            let driver = paths.at(LINKS).join(link).join("device/driver");
            fs::create_dir_all(&driver).unwrap();
            let target = |module| std::os::unix::fs::symlink(format!("../../module/{module}"), driver.join("module"));
            module.map(target).transpose().unwrap();
        }
        assert_eq!(of_all(&paths), ["virtio_net"]);
        assert_eq!((of(&paths, "eth0").as_deref(), of(&paths, "lo")), (Some("virtio_net"), None));
    }
}
