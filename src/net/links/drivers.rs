//! The kernel modules that drive links. One that is loaded by its name need not wait for udev to find the device.

use std::fs;

use crate::paths::Paths;

/// Links, by name.
pub(super) const LINKS: &str = "/sys/class/net";

/// Is `link` there without anybody having made it?
pub fn is_device(paths: &Paths, link: &str) -> bool {
    paths.at(LINKS).join(link).join("device").exists()
}

/// The module that drives `link`; `None` where it is built in, or the link is no device.
pub fn of(paths: &Paths, link: &str) -> Option<String> {
    let module = fs::read_link(paths.at(LINKS).join(link).join("device/driver/module")).ok()?;
    Some(module.file_name()?.to_str()?.to_owned())
}

/// The modules that drive all links of this machine.
pub fn of_all(paths: &Paths) -> Vec<String> {
    let links = fs::read_dir(paths.at(LINKS)).into_iter().flatten().flatten();
    let mut modules: Vec<String> = links.filter_map(|link| of(paths, link.file_name().to_str()?)).collect();
    modules.sort();
    modules.dedup();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

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
