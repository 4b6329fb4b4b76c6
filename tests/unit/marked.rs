//! Finding marked units.

use kup::unit::{Adjust, Fallback, PreserveSpec, Storage, UnitError, marked, preserve};

use super::{Tree, names};

const YES: &str = "[X-KUP]\nKUPPreserve=yes\n";

fn found(tree: &Tree) -> Vec<String> {
    let (units, errors) = marked(&tree.paths());
    assert!(errors.is_empty(), "{errors:?}");
    units.into_iter().map(|(unit, _)| unit.to_string()).collect()
}

#[test]
fn every_section_and_spelling() {
    let tree = Tree::new();
    for (i, section) in ["X-KUP", "Service", "Unit"].into_iter().enumerate() {
        tree.vendor(&format!("a{i}.service"), &format!("[{section}]\nKUPPreserve=true\n"));
        tree.vendor(&format!("b{i}.service"), &format!("[{section}]\nX-KUPPreserve=1\n"));
    }
    tree.vendor("not.service", "[Install]\nKUPPreserve=yes\n[Service]\n# KUPPreserve=yes\n");
    let want = ["a0.service", "a1.service", "a2.service", "b0.service", "b1.service", "b2.service"];
    assert_eq!(found(&tree), names(&want));
}

#[test]
fn the_last_word_counts_across_sections() {
    let tree = Tree::new();
    tree.vendor("a.service", "[Service]\nKUPPreserve=yes\n").admin("a.service.d/1.conf", "[X-KUP]\nKUPPreserve=no\n");
    tree.vendor("b.service", YES).admin("b.service.d/1.conf", "[Unit]\nX-KUPPreserve=\n");
    tree.vendor("c.service", "[Unit]\nKUPPreserve=perhaps\n").admin("c.service.d/1.conf", YES);
    assert_eq!(found(&tree), names(&["c.service"]));
}

#[test]
fn no_boolean_is_an_error_with_file_and_line() {
    let tree = Tree::new();
    tree.vendor("good.service", YES).vendor("bad.service", "[Unit]\nDescription=x\n\n[X-KUP]\nKUPPreserve=yep\n");
    let (units, errors) = marked(&tree.paths());
    assert_eq!((units.len(), errors.len()), (1, 1));
    let text = errors[0].to_string();
    assert!(matches!(errors[0], UnitError::NotBoolean { line: 5, .. }), "{text}");
    assert!(text.contains("/usr/lib/systemd/system/bad.service:5: KUPPreserve=yep"), "{text}");
}

#[test]
fn dropins_of_prefixes_and_of_all_services() {
    let tree = Tree::new();
    tree.vendor("web-a.service", "[Service]\n")
        .vendor("web-b.service", "[Service]\n")
        .vendor("db.service", "[Service]\n");
    tree.admin("web-.service.d/1.conf", YES);
    assert_eq!(found(&tree), names(&["web-a.service", "web-b.service"]));
    tree.admin("service.d/1.conf", YES);
    assert_eq!(found(&tree), names(&["db.service", "web-a.service", "web-b.service"]));
}

#[test]
fn instances_of_marked_templates() {
    let tree = Tree::new();
    tree.vendor("t@.service", YES)
        .vendor("u@.service", "[Service]\n")
        .link("/etc/systemd/system/multi-user.target.wants/t@wanted.service", "/usr/lib/systemd/system/t@.service")
        .link("/etc/systemd/system/multi-user.target.wants/u@plain.service", "/usr/lib/systemd/system/u@.service")
        .link("/run/systemd/units/invocation:t@running.service", "0123")
        .admin("t@dropin.service.d/1.conf", "[Service]\nNice=1\n")
        .admin("u@marked.service.d/1.conf", YES)
        .admin("t@never.service.d/1.conf", "[X-KUP]\nKUPPreserve=no\n");
    let want = ["t@dropin.service", "t@running.service", "t@wanted.service", "u@marked.service"];
    assert_eq!(found(&tree), names(&want));
    let templates: Vec<_> =
        preserve::scan(&tree.paths()).templates.into_iter().map(|(u, _)| u.name.to_string()).collect();
    assert_eq!(templates, names(&["t@.service"]));
}

#[test]
fn aliases_are_one_unit_and_masked_ones_none() {
    let tree = Tree::new();
    tree.vendor("real.service", "[Service]\n")
        .link("/etc/systemd/system/alias.service", "/usr/lib/systemd/system/real.service");
    tree.admin("alias.service.d/1.conf", YES);
    tree.vendor("masked.service", YES).link("/etc/systemd/system/masked.service", "/dev/null");
    assert_eq!(found(&tree), names(&["real.service"]));
}

#[test]
fn a_mark_on_nothing_is_told() {
    let tree = Tree::new();
    tree.admin("typo.service.d/50-kup.conf", YES).admin("gone.service.d/override.conf", "[Service]\nNice=1\n");
    tree.link("/etc/systemd/system/multi-user.target.wants/left.service", "/usr/lib/systemd/system/left.service");
    let (units, errors) = marked(&tree.paths());
    assert!(units.is_empty());
    assert!(matches!(&errors[..], [UnitError::NotFound { unit }] if unit.as_str() == "typo.service"), "{errors:?}");
}

#[test]
fn everything_that_a_unit_can_say() {
    let tree = Tree::new();
    let text = "[X-KUP]\nKUPPreserve=yes\nKUPHealthCheck=/bin/check --url \"x y\"\nKUPFallback=none\nKUPStorage=auto\nKUPAdjust=private-ipc\n";
    tree.vendor("a.service", text).admin("a.service.d/1.conf", "[Service]\nX-KUPAdjust=no-io-uring private-ipc\n");
    let spec = PreserveSpec::of(&tree.load("a")).unwrap();
    assert_eq!(spec.health_check.as_deref(), Some("/bin/check --url \"x y\""));
    assert_eq!(spec.fallback, Some(Fallback::None));
    assert_eq!(spec.storage, Some(Storage::Auto));
    assert_eq!(spec.adjust, [Adjust::NoIoUring, Adjust::PrivateIpc]);
    tree.admin("a.service.d/2.conf", "[X-KUP]\nKUPAdjust=\nKUPAdjust=everything\n");
    let error = PreserveSpec::of(&tree.load("a")).unwrap_err().to_string();
    assert!(error.contains("2.conf:3: KUPAdjust=everything") && error.contains("no-io-uring"), "{error}");
}
