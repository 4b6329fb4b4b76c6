//! Search path, drop-ins, masks, resets, aliases, templates (systemd.unit(5)).

use kup::unit::UnitError;

use super::{Tree, name, names};

const RUN: &str = "[Service]\nExecStart=/bin/true\n";

fn description(tree: &Tree, unit: &str) -> String {
    tree.load(unit).get("Unit", "Description").unwrap().to_string()
}

#[test]
fn the_search_path_in_its_order() {
    let path = [
        "/run/systemd/generator.late",
        "/usr/lib/systemd/system",
        "/usr/local/lib/systemd/system",
        "/run/systemd/generator",
        "/run/systemd/system.attached",
        "/run/systemd/system",
        "/etc/systemd/system.attached",
        "/etc/systemd/system",
        "/run/systemd/generator.early",
        "/run/systemd/transient",
        "/run/systemd/system.control",
        "/etc/systemd/system.control",
    ];
    let tree = Tree::new();
    for dir in path {
        tree.file(&format!("{dir}/a.service"), &format!("[Unit]\nDescription={dir}\n"));
        assert_eq!(description(&tree, "a"), dir);
        assert_eq!(tree.short(tree.load("a").fragment.as_deref().unwrap()), format!("{dir}/a.service"));
    }
}

#[test]
fn lib_counts_where_usr_is_not_merged_and_only_once_where_it_is() {
    let tree = Tree::new();
    tree.file("/lib/systemd/system/a.service", RUN);
    assert_eq!(tree.short(tree.load("a").fragment.as_deref().unwrap()), "/lib/systemd/system/a.service");

    let merged = Tree::new();
    merged
        .vendor("a.service", RUN)
        .link("/lib", "usr/lib")
        .link("/etc/systemd/system/b.service", "/lib/systemd/system/a.service");
    let unit = merged.load("b");
    assert_eq!((unit.name, unit.aliases), (name("a"), [name("b")].into()));
    assert_eq!(merged.short(unit.fragment.as_deref().unwrap()), "/usr/lib/systemd/system/a.service");
}

#[test]
fn dropins_apply_in_the_order_of_their_names_wherever_they_lie() {
    let tree = Tree::new();
    tree.vendor("foo-bar.service", RUN)
        .file("/run/systemd/system/foo-bar.service.d/30.conf", "[Unit]\nDescription=30")
        .vendor("foo-.service.d/20.conf", "[Unit]\nDescription=20")
        .vendor("service.d/40.conf", "[Unit]\nDescription=40")
        .admin("foo-bar.service.d/10.conf", "[Unit]\nDescription=10")
        .admin("foo-bar.service.d/no-suffix", "[Unit]\nDescription=no")
        .admin("foo-bar.service.d/.hidden.conf", "[Unit]\nDescription=no");
    let want = [
        "/etc/systemd/system/foo-bar.service.d/10.conf",
        "/usr/lib/systemd/system/foo-.service.d/20.conf",
        "/run/systemd/system/foo-bar.service.d/30.conf",
        "/usr/lib/systemd/system/service.d/40.conf",
    ];
    assert_eq!(tree.dropins("foo-bar"), names(&want));
    let unit = tree.load("foo-bar");
    let value = unit.get("Unit", "Description").unwrap();
    assert_eq!((value.as_str(), value.line, tree.short(&value.file).as_str()), ("40", 2, want[3]));
}

#[test]
fn equally_named_dropins_override() {
    let tree = Tree::new();
    // By directory first, then by how specific the name is; type-level ones last of all.
    tree.vendor("a-b.service", RUN)
        .vendor("a-b.service.d/1.conf", "[Unit]\n")
        .admin("a-.service.d/1.conf", "[Unit]\n")
        .vendor("a-.service.d/2.conf", "[Unit]\n")
        .vendor("a-b.service.d/2.conf", "[Unit]\n")
        .admin("service.d/3.conf", "[Unit]\n")
        .vendor("a-.service.d/3.conf", "[Unit]\n");
    let want = [
        "/etc/systemd/system/a-.service.d/1.conf",
        "/usr/lib/systemd/system/a-b.service.d/2.conf",
        "/usr/lib/systemd/system/a-.service.d/3.conf",
    ];
    assert_eq!(tree.dropins("a-b"), names(&want));
}

#[test]
fn dropins_are_masked_by_name() {
    let tree = Tree::new();
    tree.vendor("a.service", RUN)
        .vendor("a.service.d/1.conf", "[Unit]\nDescription=1")
        .vendor("a.service.d/2.conf", "[Unit]\nDescription=2")
        .link("/etc/systemd/system/a.service.d/1.conf", "/dev/null")
        .admin("a.service.d/2.conf", "");
    assert_eq!(tree.dropins("a"), Vec::<String>::new());
    assert!(tree.load("a").get("Unit", "Description").is_none());
}

#[test]
fn masked_and_missing_units() {
    let tree = Tree::new();
    tree.vendor("linked.service", RUN).link("/etc/systemd/system/linked.service", "/dev/null");
    tree.vendor("empty.service", RUN).file("/run/systemd/system/empty.service", "");
    tree.admin("nothing.service.d/1.conf", RUN);
    for unit in ["linked", "empty"] {
        assert!(matches!(tree.try_load(unit), Err(UnitError::Masked { .. })), "{unit}");
    }
    assert!(matches!(tree.try_load("nothing"), Err(UnitError::NotFound { .. })));
}

#[test]
fn an_empty_assignment_resets() {
    let tree = Tree::new();
    tree.vendor("a.service", "[Service]\nExecStart=/a\nExecStart=/b\nType=forking\nNice=1\n")
        .admin("a.service.d/1.conf", "[Service]\nExecStart=\nExecStart=/c \\\n# why\n  -d\nType=\n")
        .admin("a.service.d/2.conf", "[Service]\nExecStart=/e\n[X-Other]\nNice=2\n");
    let unit = tree.load("a");
    assert_eq!(unit.all("Service", "ExecStart"), ["/c    -d", "/e"]);
    assert!(unit.get("Service", "Type").is_none());
    assert_eq!(unit.get("Service", "Nice").unwrap().as_str(), "1");
}

#[test]
fn aliases_share_their_dropins() {
    let tree = Tree::new();
    tree.vendor("real.service", RUN)
        .link("/etc/systemd/system/first.service", "/usr/lib/systemd/system/real.service")
        .link("/etc/systemd/system/second.service", "first.service")
        .admin("first.service.d/1.conf", "[Unit]\n")
        .admin("second.service.d/2.conf", "[Unit]\n")
        .admin("real.service.d/3.conf", "[Unit]\n");
    for asked in ["real", "first", "second"] {
        let unit = tree.load(asked);
        assert_eq!(unit.name, name("real"), "{asked}");
        assert_eq!(unit.aliases, [name("first"), name("second")].into(), "{asked}");
        assert_eq!(unit.dropins.len(), 3, "{asked}");
    }
}

#[test]
fn a_file_linked_from_outside_keeps_its_links_name() {
    let tree = Tree::new();
    tree.file("/opt/x/other.service", RUN).link("/etc/systemd/system/a.service", "/opt/x/other.service");
    let unit = tree.load("a");
    assert_eq!((unit.name, unit.aliases.len()), (name("a"), 0));
}

#[test]
fn links_that_systemd_refuses() {
    let tree = Tree::new();
    tree.vendor("a.service", RUN).vendor("t@.service", RUN);
    tree.link("/etc/systemd/system/plain.service", "/usr/lib/systemd/system/t@.service")
        .link("/etc/systemd/system/x@1.service", "t@2.service")
        .link("/etc/systemd/system/round.service", "about.service")
        .link("/etc/systemd/system/about.service", "round.service")
        .link("/etc/systemd/system/dangling.service", "nowhere.service");
    for unit in ["plain", "x@1", "dangling"] {
        assert!(matches!(tree.try_load(unit), Err(UnitError::NotFound { .. })), "{unit}");
    }
    assert!(matches!(tree.try_load("round"), Err(UnitError::AliasLoop { .. })));
}

#[test]
fn templates_and_instances() {
    let tree = Tree::new();
    tree.vendor("t@.service", RUN)
        .link("/etc/systemd/system/alias@.service", "/usr/lib/systemd/system/t@.service")
        .admin("t@.service.d/1.conf", "[Unit]\n")
        .admin("t@x.service.d/2.conf", "[Unit]\n")
        .admin("alias@x.service.d/3.conf", "[Unit]\n")
        .admin("t@own.service", "[Unit]\nDescription=own\n");
    let unit = tree.load("alias@x");
    assert_eq!((&unit.name, unit.dropins.len()), (&name("t@x"), 3));
    assert_eq!(unit.aliases, [name("alias@x")].into());
    assert_eq!(tree.load("t@y").dropins.len(), 1);
    assert_eq!(tree.load("t@.service").dropins.len(), 1);
    let own = tree.load("t@own");
    assert_eq!((own.get("Unit", "Description").unwrap().as_str(), own.aliases.len()), ("own", 0));
}

#[test]
fn broken_section_headers() {
    let tree = Tree::new();
    tree.vendor("bad.service", "[Unit]\n[Service\nA=1\n").vendor("a.service", RUN);
    tree.admin("a.service.d/1.conf", "[Service]\nNice=1\n[Unit\nDescription=x\n");
    assert!(matches!(tree.try_load("bad"), Err(UnitError::BrokenSection { line: 2, .. })));
    let unit = tree.load("a");
    assert_eq!((unit.get("Service", "Nice").unwrap().as_str(), unit.get("Unit", "Description")), ("1", None));
}

#[test]
fn booleans_name_file_and_line() {
    let tree = Tree::new();
    tree.vendor("a.service", "[Service]\nPrivateTmp=ON\nPrivateDevices=perhaps\n");
    let unit = tree.load("a");
    assert_eq!(unit.bool("Service", "PrivateTmp").unwrap(), Some(true));
    assert_eq!(unit.bool("Service", "Absent").unwrap(), None);
    let error = unit.bool("Service", "PrivateDevices").unwrap_err().to_string();
    assert!(error.contains("a.service:3: PrivateDevices=perhaps"), "{error}");
}
