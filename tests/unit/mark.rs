//! `kup preserve` and `kup release`.

use std::fs;

use kup::unit::mark::{MarkError, MarkOptions, Preserved, Released, preserve, release};
use kup::unit::{Adjust, Fallback, PreserveSpec, Storage, UnitError, marked};

use super::{Tree, name};

const RUN: &str = "[Service]\nExecStart=/bin/true\n";

fn is_marked(tree: &Tree, unit: &str) -> bool {
    PreserveSpec::of(&tree.load(unit)).unwrap().preserve
}

#[test]
fn there_and_back() {
    let tree = Tree::new();
    tree.vendor("a.service", RUN);
    let path = tree.paths().at("/etc/systemd/system/a.service.d/50-kup.conf");
    let options = MarkOptions::default();
    assert_eq!(preserve(&tree.paths(), &name("a"), &options).unwrap(), Preserved::Written(path.clone()));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "# Written by 'kup preserve a.service'.\n[X-KUP]\nKUPPreserve=yes\n");
    assert!(is_marked(&tree, "a"));
    assert!(matches!(preserve(&tree.paths(), &name("a"), &options).unwrap(), Preserved::Already(o) if o.file == path));

    assert_eq!(release(&tree.paths(), &name("a")).unwrap(), Released::Removed(path.clone()));
    assert!(!path.parent().unwrap().exists(), "the empty directory goes too");
    assert_eq!(release(&tree.paths(), &name("a")).unwrap(), Released::NotMarked);
}

#[test]
fn options_are_written_and_checked() {
    let tree = Tree::new();
    tree.vendor("a.service", RUN);
    let mut options = MarkOptions {
        health_check: Some("/bin/check".into()),
        fallback: Some(Fallback::Disk),
        storage: Some(Storage::Ram),
        adjust: vec![Adjust::NoIoUring, Adjust::PrivateIpc],
    };
    preserve(&tree.paths(), &name("a"), &options).unwrap();
    let spec = PreserveSpec::of(&tree.load("a")).unwrap();
    assert_eq!(
        (spec.health_check, spec.fallback, spec.storage, spec.adjust),
        (options.health_check.clone(), options.fallback, options.storage, options.adjust.clone())
    );
    for bad in ["/bin/x\nKUPPreserve=no", "/bin/x \\"] {
        options.health_check = Some(bad.into());
        assert!(matches!(preserve(&tree.paths(), &name("a"), &options), Err(MarkError::BadOption { .. })), "{bad}");
    }
}

#[test]
fn the_mark_goes_to_the_main_name_and_to_templates() {
    let tree = Tree::new();
    tree.vendor("real.service", RUN).link("/etc/systemd/system/alias.service", "/usr/lib/systemd/system/real.service");
    preserve(&tree.paths(), &name("alias"), &MarkOptions::default()).unwrap();
    assert!(tree.paths().at("/etc/systemd/system/real.service.d/50-kup.conf").exists());
    release(&tree.paths(), &name("alias")).unwrap();
    assert!(!is_marked(&tree, "real"));

    tree.vendor("t@.service", RUN);
    preserve(&tree.paths(), &name("t@.service"), &MarkOptions::default()).unwrap();
    assert!(is_marked(&tree, "t@x"));
    assert!(matches!(release(&tree.paths(), &name("t@x")).unwrap(), Released::Overridden { .. }));
    assert!(!is_marked(&tree, "t@x") && is_marked(&tree, "t@y"));
}

#[test]
fn a_mark_that_stands_elsewhere_is_overridden() {
    let tree = Tree::new();
    tree.vendor("a.service", "[Service]\nKUPPreserve=yes\n").admin("a.service.d/20-own.conf", "[Service]\nNice=1\n");
    let Released::Overridden { dropin, mark } = release(&tree.paths(), &name("a")).unwrap() else { panic!() };
    assert_eq!((tree.short(&mark.file).as_str(), mark.line), ("/usr/lib/systemd/system/a.service", 2));
    assert!(fs::read_to_string(&dropin).unwrap().contains("KUPPreserve=no"));
    assert!(!is_marked(&tree, "a"));
    // And back again.
    assert_eq!(preserve(&tree.paths(), &name("a"), &MarkOptions::default()).unwrap(), Preserved::Written(dropin));
    assert!(is_marked(&tree, "a"));
    assert!(tree.paths().at("/etc/systemd/system/a.service.d/20-own.conf").exists());
}

#[test]
fn a_later_file_overrules_and_nothing_changes() {
    let tree = Tree::new();
    tree.vendor("a.service", RUN).admin("a.service.d/90.conf", "[X-KUP]\nKUPPreserve=no\n");
    let error = preserve(&tree.paths(), &name("a"), &MarkOptions::default()).unwrap_err();
    assert!(error.to_string().contains("90.conf:2"), "{error}");
    let ours = tree.paths().at("/etc/systemd/system/a.service.d/50-kup.conf");
    assert!(!ours.exists());
    tree.admin("a.service.d/90.conf", "[X-KUP]\nKUPPreserve=yes\n");
    assert!(matches!(release(&tree.paths(), &name("a")), Err(MarkError::Overruled { .. })));
    assert!(!ours.exists() && is_marked(&tree, "a"));
}

#[test]
fn what_cannot_be_marked_and_what_can_still_be_released() {
    let tree = Tree::new();
    tree.vendor("masked.service", RUN).link("/etc/systemd/system/masked.service", "/dev/null");
    let mark = |unit: &str| preserve(&tree.paths(), &name(unit), &MarkOptions::default());
    assert!(matches!(mark("masked"), Err(MarkError::Unit(UnitError::Masked { .. }))));
    assert!(matches!(mark("absent"), Err(MarkError::Unit(UnitError::NotFound { .. }))));
    assert!(!tree.paths().at("/etc/systemd/system/absent.service.d").exists());
    tree.admin("absent.service.d/50-kup.conf", "[X-KUP]\nKUPPreserve=yes\n");
    assert!(matches!(release(&tree.paths(), &name("absent")), Ok(Released::Removed(_))));
    assert!(marked(&tree.paths()).1.is_empty());
}
