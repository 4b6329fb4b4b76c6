//! Is the machine of the kind that kup works on, and is no other update under way?

use crate::paths::Paths;
use crate::preflight::Finding;
use crate::update::{Record, State};

pub fn ask(paths: &Paths) -> Vec<Finding> {
    let mut found = Vec::new();
    if !paths.at("/sys/fs/cgroup/cgroup.controllers").exists() {
        let message = "the machine does not run on the unified control group hierarchy (cgroups v2)";
        let fix = "take systemd.unified_cgroup_hierarchy=0 off the kernel's command line";
        found.push(Finding::blocker("system.cgroup", message).fix(fix));
    }
    if !["/usr/sbin/nft", "/sbin/nft"].iter().any(|p| paths.at(p).exists()) {
        let message = "nft is missing: without its rules the new kernel would reset every TCP connection";
        found.push(Finding::blocker("netlock.nft", message).fix("install the package nftables"));
    }
    match Record::load(&paths.record()) {
        // The check that is part of an update finds that very update.
        Ok(Some(record)) if !record.state().is_final() && record.state() != State::Checking => {
            let message = format!("update {} is {}", record.id, record.state().as_str());
            found.push(Finding::blocker("update.under-way", message).fix("wait for its end, or give it up: kup abort"));
        }
        Ok(_) => {}
        Err(e) => found.push(Finding::blocker("update.record", e.to_string())),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Event, TargetKernel};
    use std::fs;

    #[test]
    fn from_trees() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let ids = || ask(&paths).into_iter().map(|f| f.id).collect::<Vec<_>>();
        assert_eq!(ids(), ["system.cgroup", "netlock.nft"]);
        for file in ["/sys/fs/cgroup/cgroup.controllers", "/usr/sbin/nft"] {
            fs::create_dir_all(paths.at(file).parent().unwrap()).unwrap();
            fs::write(paths.at(file), "").unwrap();
        }
        let target = TargetKernel { release: "2".into(), image: "/boot/vmlinuz-2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "b".into(), target);
        record.save(&paths.record()).unwrap();
        assert!(ids().is_empty(), "its own check");
        record.advance(Event::Pass, &paths.record()).unwrap();
        assert_eq!(ids(), ["update.under-way"]);
        record.advance(Event::Abort, &paths.record()).unwrap();
        assert!(ids().is_empty());
        fs::write(paths.record(), "{").unwrap();
        assert!(ids().is_empty(), "the copy counts");
        fs::remove_file(paths.record().with_extension("copy.json")).unwrap();
        assert_eq!(ids(), ["update.record"]);
    }
}
