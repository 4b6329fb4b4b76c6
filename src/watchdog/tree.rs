//! A made-up machine for tests.

use std::fs;
use std::os::unix::fs::symlink;

use crate::paths::Paths;

pub struct Tree {
    _dir: tempfile::TempDir,
    pub paths: Paths,
}

impl Tree {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        Self { _dir: dir, paths }
    }

    pub fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.paths.at(path).parent().unwrap()).unwrap();
        fs::write(self.paths.at(path), text).unwrap();
    }

    pub fn link(&self, path: &str, to: &str) {
        fs::create_dir_all(self.paths.at(path).parent().unwrap()).unwrap();
        symlink(to, self.paths.at(path)).unwrap();
    }

    /// A watchdog as the kernel shows it, and its module, loaded on top of the core.
    pub fn watchdog(&self, number: u32, identity: &str, module: Option<&str>) {
        let dir = format!("/sys/class/watchdog/watchdog{number}");
        let max = if module == Some("iTCO_wdt") { "0" } else { "2046" };
        for (file, text) in [
            ("identity", identity),
            ("state", "inactive"),
            ("timeout", "30"),
            ("max_timeout", max),
            ("nowayout", "0"),
            ("bootstatus", "0"),
        ] {
            self.put(&format!("{dir}/{file}"), &format!("{text}\n"));
        }
        let Some(module) = module else { return };
        if module != "i6300esb" {
            self.link(&format!("{dir}/device/driver/module"), &format!("../../../../module/{module}"));
        }
        self.put("/sys/module/watchdog/parameters/stop_on_reboot", "-1\n");
        self.put("/sys/module/watchdog/refcnt", "1\n");
        self.put(&format!("/sys/module/watchdog/holders/{module}/refcnt"), "0\n");
        self.put(&format!("/sys/module/{module}/refcnt"), "0\n");
    }

    /// A kernel of `release` with one module and one driver that is built in.
    pub fn kernel(&self, release: &str, module: &str) {
        let dep = format!("kernel/drivers/watchdog/{module}.ko.xz: kernel/drivers/watchdog/watchdog.ko.xz\n");
        self.put(&format!("/lib/modules/{release}/modules.dep"), &dep);
        self.put(&format!("/lib/modules/{release}/modules.builtin"), "kernel/drivers/watchdog/softdog.ko\n");
    }
}
