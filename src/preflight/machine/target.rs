//! Is there a kernel to go to, whole?

use crate::kernel::{self, Installed, Staged};
use crate::paths::Paths;
use crate::preflight::Finding;

/// The release of the target, where there is one, and what is to be said about it.
pub fn ask(paths: &Paths, asked: Option<&str>, running: &str) -> (Option<String>, Vec<Finding>) {
    let missing = |message: String| {
        let fix = "install a newer kernel, or name one: kup check --target RELEASE";
        (None, vec![Finding::blocker("target.missing", message).fix(fix)])
    };
    let installed = match kernel::discover(paths) {
        Ok(installed) => installed,
        Err(e) => return missing(format!("{e:#}")),
    };
    let staged = match Staged::read(paths) {
        Ok(staged) => staged.map(|s| s.release),
        Err(e) => return missing(format!("{e:#}")),
    };
    let target = match kernel::choose_target(&installed, staged.as_deref(), asked, running) {
        Ok(target) => target,
        // Nothing to do is no fault of the machine: a check of units goes on.
        Err(e @ kernel::NoTarget::UpToDate { .. }) => {
            return (None, vec![Finding::note("target.none", e.to_string())]);
        }
        Err(e) => return missing(e.to_string()),
    };
    let findings = about(&target.release, target.initrd.is_some(), &installed, running);
    (Some(target.release), findings)
}

fn about(target: &str, has_initrd: bool, installed: &[Installed], running: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if target == running {
        found.push(Finding::note("target.same", format!("{target} is the kernel that runs already")));
    }
    // Kernels with everything built in need none; then the running one has none either.
    let needed = installed.iter().any(|k| k.release == running && k.initrd.is_some());
    if needed && !has_initrd {
        let message = format!("kernel {target} has no initrd in /boot, while the running one has");
        let fix = format!("update-initramfs -c -k {target}");
        found.push(Finding::blocker("target.initrd-missing", message).fix(fix));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn targets() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let kernel = |release: &str, initrd: bool| {
            fs::create_dir_all(paths.at(format!("/lib/modules/{release}"))).unwrap();
            fs::create_dir_all(paths.at("/boot")).unwrap();
            fs::write(paths.at(format!("/boot/vmlinuz-{release}")), "x").unwrap();
            if initrd {
                fs::write(paths.at(format!("/boot/initrd.img-{release}")), "x").unwrap();
            }
        };
        let ids = |asked| {
            let (target, found) = ask(&paths, asked, "6.12.1");
            (target, found.into_iter().map(|f| f.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(None), (None, vec!["target.missing".into()]));
        kernel("6.12.1", true);
        assert_eq!(ids(None), (None, vec!["target.none".into()]));
        assert_eq!(ids(Some("6.12.1")), (Some("6.12.1".into()), vec!["target.same".into()]));
        kernel("6.12.2", false);
        assert_eq!(ids(None), (Some("6.12.2".into()), vec!["target.initrd-missing".into()]));
        kernel("6.12.2", true);
        assert_eq!(ids(None), (Some("6.12.2".into()), vec![]));
        assert_eq!(ids(Some("7.0")), (None, vec!["target.missing".into()]));
    }
}
