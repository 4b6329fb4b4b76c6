//! Can images be encrypted, and their key go to the new kernel?

use crate::kernel;
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::update::encryption;

pub fn ask(paths: &Paths) -> Vec<Finding> {
    let mut found = missing(paths);
    if found.is_empty() && !encryption::has_tpm2() {
        let message = "no TPM 2.0 keeps a copy of the images' key: after a reset (panic, watchdog, power cut) services start \
                       cold; only a way back by kexec brings their state";
        found.push(Finding::warning("encryption.reset", message));
    }
    found
}

fn missing(paths: &Paths) -> Vec<Finding> {
    let mut found = Vec::new();
    let tools = [("cryptsetup", "cryptsetup-bin"), ("mkfs.ext4", "e2fsprogs")];
    for (tool, package) in tools {
        if !paths.has_tool(tool) {
            let message = format!("Encryption=true needs {tool}");
            found.push(Finding::blocker("encryption.tools", message).fix(format!("install the package {package}")));
        }
    }
    if let Some(mode) = kernel::kexec::Limits::read(paths).lockdown {
        let message = format!("lockdown ({mode}) keeps the new kernel from reading the images' key in its memory");
        found.push(Finding::blocker("encryption.lockdown", message).fix("set Encryption=false in kup.toml"));
    }
    for (path, what) in [("/dev/mem", "/dev/mem"), (kernel::hugepool::POOL, "huge pages of 2 MiB")] {
        if !paths.at(path).exists() {
            let message = format!("the images' key cannot go to the new kernel in memory: this one has no {what}");
            found.push(Finding::blocker("encryption.memory", message).fix("set Encryption=false in kup.toml"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn from_trees() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let put = |path: &str, text: &str| {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), text).unwrap();
        };
        let ids = || missing(&paths).into_iter().map(|f| f.id).collect::<Vec<_>>();
        assert_eq!(ids(), ["encryption.tools", "encryption.tools", "encryption.memory", "encryption.memory"]);
        put("/usr/sbin/cryptsetup", "");
        put("/sbin/mkfs.ext4", "");
        put("/dev/mem", "");
        put(kernel::hugepool::POOL, "0\n");
        assert!(ids().is_empty());
        put("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert_eq!(ids(), ["encryption.lockdown"]);
    }
}
