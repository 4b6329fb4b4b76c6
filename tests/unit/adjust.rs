//! What preserved units need so that they can be checkpointed.

use kup::unit::{PreserveSpec, adjustments, refusals};

use super::Tree;

fn adjusted(service: &str, words: &str) -> (Vec<String>, usize) {
    let tree = Tree::new();
    tree.vendor("a.service", &format!("[Service]\n{service}\n[X-KUP]\nKUPPreserve=yes\nKUPAdjust={words}\n"));
    let unit = tree.load("a");
    let spec = PreserveSpec::of(&unit).unwrap();
    let found = adjustments(&unit, &spec).into_iter().map(|a| format!("{}={}", a.directive, a.value)).collect();
    (found, refusals(&unit, &spec).len())
}

#[test]
fn user_namespaces_and_paths() {
    for value in ["yes", "self", "identity"] {
        assert_eq!(adjusted(&format!("PrivateUsers={value}"), "").0, ["PrivateUsers=no"]);
    }
    assert!(adjusted("PrivateUsers=no", "").0.is_empty());
    assert!(adjusted("PrivateUsers=yes\nPrivateUsers=", "").0.is_empty());
    let redis = adjusted("PrivateUsers=true\nNoExecPaths=/\nExecPaths=/usr/bin/redis-server /usr/lib /lib", "").0;
    assert_eq!(redis, ["PrivateUsers=no", "ExecPaths=/usr/libexec/kup/kup-placeholder"]);
    assert!(adjusted("NoExecPaths=/\nNoExecPaths=", "").0.is_empty());
}

#[test]
fn what_the_administrator_asks_for() {
    let filter = "SystemCallFilter=~io_uring_setup:ENOSYS io_uring_enter:ENOSYS io_uring_register:ENOSYS";
    assert_eq!(adjusted("", "no-io-uring private-ipc"), (vec![filter.into(), "PrivateIPC=yes".into()], 0));
    assert_eq!(adjusted("SystemCallFilter=~@mount", "no-io-uring"), (vec![filter.into()], 0));
    assert_eq!(adjusted("SystemCallFilter=@system-service\nSystemCallFilter=~@mount", "no-io-uring"), (vec![], 1));
    assert_eq!(adjusted("SystemCallFilter=@clock\nSystemCallFilter=\nSystemCallFilter=~@mount", "no-io-uring").1, 0);
}

#[test]
fn what_was_adjusted_before_is_still_needed() {
    let tree = Tree::new();
    tree.vendor("a.service", "[Service]\nPrivateUsers=yes\n[X-KUP]\nKUPPreserve=yes\n");
    tree.file("/run/systemd/generator/a.service.d/50-kup-adjust.conf", "[Service]\nPrivateUsers=no\n");
    let unit = tree.load("a");
    assert_eq!(unit.bool("Service", "PrivateUsers").unwrap(), Some(false));
    assert_eq!(adjustments(&unit, &PreserveSpec::of(&unit).unwrap()).len(), 1);
}
