//! Does the kernel let itself be replaced?

use crate::kernel;
use crate::paths::Paths;
use crate::preflight::Finding;

pub fn ask(paths: &Paths) -> Vec<Finding> {
    let mut found = Vec::new();
    let limits = kernel::kexec::Limits::read(paths);
    if limits.disabled || limits.loads_left == Some(0) {
        let key = if limits.disabled { "kexec_load_disabled" } else { "kexec_load_limit_reboot" };
        let fix = format!("take kernel.{key} out of /etc/sysctl.d and reboot once");
        found.push(Finding::blocker("kexec.disabled", format!("kernel.{key} forbids kexec until a reboot")).fix(fix));
    }
    match kernel::kexec::loaded(paths) {
        Err(_) => found.push(Finding::blocker("kexec.unsupported", "the running kernel was built without kexec")),
        Ok(true) => {
            let message = "a kernel is loaded for kexec already; the update puts its own in that place";
            found.push(Finding::note("kexec.loaded", message));
        }
        Ok(false) => {}
    }
    if let Some(mode) = limits.lockdown {
        let message = format!("lockdown ({mode}): the target must be signed by a key that the running kernel trusts");
        found.push(Finding::note("kexec.lockdown", message));
    }
    // systemd-shutdown(8) runs it for the jump, and silently reboots where it is not there.
    if !paths.has_tool("kexec") {
        let message = "/sbin/kexec is missing: 'systemctl kexec' would be an ordinary reboot";
        found.push(Finding::blocker("kexec.tools", message).fix("install the package kexec-tools"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn from_trees() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let put = |path: &str, text: &str| {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), text).unwrap();
        };
        let ids = || ask(&paths).into_iter().map(|f| f.id).collect::<Vec<_>>();
        assert_eq!(ids(), ["kexec.unsupported", "kexec.tools"]);
        put("/sys/kernel/kexec_loaded", "0\n");
        put("/usr/sbin/kexec", "");
        assert!(ids().is_empty());
        put("/proc/sys/kernel/kexec_load_disabled", "1\n");
        put("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        put("/sys/kernel/kexec_loaded", "1\n");
        assert_eq!(ids(), ["kexec.disabled", "kexec.loaded", "kexec.lockdown"]);
    }
}
