use super::*;
use crate::boot::systemd_boot::entry::Tries;
use proptest::prelude::*;

const MACHINE: &str = "5b5a3b0c9dd0459f9ae1c0ffee5b5a3b";

fn entry(id: &str, sort_key: Option<&str>, version: &str, left: Option<u32>) -> Entry {
    Entry {
        id: id.into(),
        sort_key: sort_key.map(Into::into),
        version: Some(version.into()),
        release: Some(version.into()),
        tries: left.map(|left| Tries { left, done: 0 }),
        ..Entry::default()
    }
}

fn menu(entries: Vec<Entry>) -> Menu {
    let mut menu = Menu(entries);
    menu.0.sort_by(order);
    menu
}

fn ids(menu: &Menu) -> Vec<&str> {
    menu.0.iter().map(|e| e.id.as_str()).collect()
}

#[test]
fn the_order_of_systemd_boot() {
    let all = menu(vec![
        entry("a.conf", None, "9", None),
        entry("old.conf", Some("debian"), "6.12.94", None),
        entry("b.conf", None, "1", None),
        entry("bad.conf", Some("debian"), "7.0", Some(0)),
        entry("new.conf", Some("debian"), "6.12.107", Some(3)),
        entry("arch.conf", Some("arch"), "5", None),
    ]);
    assert_eq!(ids(&all), ["arch.conf", "new.conf", "old.conf", "b.conf", "a.conf", "bad.conf"]);
    let twice = menu(vec![entry("a.conf", None, "", Some(1)), entry("a.conf", None, "", Some(2))]);
    assert_eq!(twice.0[0].tries.map(|t| t.left), Some(2));
}

#[test]
fn what_boots_by_default() {
    let all = menu(vec![
        entry("id-1.conf", Some("debian"), "1", None),
        entry("id-2.conf", Some("debian"), "2", Some(0)),
        entry("ID-3.conf", Some("debian"), "3", None),
    ]);
    let default = |variable: &str, config: &str, saved: &str| {
        let some = |text: &str| Some(text.to_string()).filter(|t| !t.is_empty());
        let config = Config { default: some(config), ..Config::default() };
        let choice = Choice { variable: some(variable), saved: some(saved), config, preferred: None };
        all.boots(&choice).map_or("", |e| e.id.as_str())
    };
    assert_eq!(default("", "", ""), "ID-3.conf");
    assert_eq!(default("id-1.conf", "id-3*", ""), "id-1.conf", "the variable goes first");
    assert_eq!(default("gone.conf", "id-[12].conf", ""), "id-1.conf");
    assert_eq!(default("id-2.conf", "", ""), "id-2.conf", "named, an entry without tries is booted all the same");
    assert_eq!(default("id-3.conf", "", ""), "ID-3.conf");
    assert_eq!(default("@saved", "", "id-1.conf"), "id-1.conf");
    assert_eq!(default("@saved", "id-2.conf", ""), "id-2.conf");
    assert_eq!(default("", "@saved", "id-2.conf"), "id-2.conf");
    assert_eq!(default("auto-windows", "", ""), "", "that is no Linux");
    assert_eq!(Menu(vec![]).boots(&Choice::default()), None);

    let mut choice = Choice { preferred: Some("id-2.conf".into()), ..Choice::default() };
    assert_eq!(all.boots(&choice).unwrap().id, "ID-3.conf", "preferred, but without tries");
    choice.config = Config::parse("timeout 3\npreferred id-*\ndefault id-2.conf\n#default x\n");
    choice.preferred = None;
    assert_eq!(all.boots(&choice).unwrap().id, "ID-3.conf");
}

#[test]
fn a_kernels_entry() {
    let mut all = menu(vec![
        entry("other.conf", None, "1", None),
        entry("own.conf", None, "1", Some(0)),
        entry("star*.conf", None, "2", None),
        entry("half.conf", None, "3", None),
    ]);
    for e in &mut all.0 {
        match e.id.as_str() {
            "other.conf" => e.machine_id = Some("another".into()),
            "half.conf" => e.missing = vec!["initrd".into()],
            _ => e.machine_id = Some(MACHINE.into()),
        }
    }
    let find = |release, selected| all.entry_of(release, MACHINE, selected).map(|e| e.id.as_str());
    assert_eq!(find("1", None), Some("own.conf"));
    assert_eq!(find("1", Some("other.conf")), Some("own.conf"), "that is another installation's");
    assert_eq!((find("2", None), find("3", None), find("4", None)), (None, None, None));

    let two = menu(vec![entry("plain.conf", None, "1", None), entry("tuned.conf", None, "1", None)]);
    let find = |selected| two.entry_of("1", MACHINE, selected).map(|e| e.id.as_str());
    assert_eq!(find(None), Some("tuned.conf"));
    assert_eq!(find(Some("PLAIN.CONF")), Some("plain.conf"), "the one that was booted");
    assert_eq!(find(Some("gone.conf")), Some("tuned.conf"));
}

#[test]
fn read_from_two_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let (esp, boot) = (dir.path().join("efi"), dir.path().join("boot"));
    assert_eq!(Menu::read(&[esp.clone(), boot.clone()]).unwrap(), Menu::default());
    let put = |path: PathBuf, content: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let os = "ID=debian\nVERSION_ID=13\n";
    put(esp.join("EFI/Linux/id-7.0+2-1.efi"), &uki::testing::image(&[(".osrel", os), (".uname", "7.0")]));
    put(esp.join("EFI/Linux/not-one.efi"), b"MZ");
    put(boot.join("loader/entries/id-6.1.conf"), b"linux /id/6.1/linux\ninitrd \\id\\6.1\\initrd\nsort-key debian\n");
    put(boot.join("id/6.1/linux"), b"");
    put(boot.join("loader/entries/no-kernel.conf"), b"linux /id/6.2/linux\n");
    put(boot.join("loader/entries/outside.conf"), b"linux /../efi/EFI/Linux/not-one.efi\n");
    put(boot.join("loader/entries/notes.txt"), b"linux /id/6.1/linux\n");
    let menu = Menu::read(&[esp, boot.clone()]).unwrap();
    assert_eq!(ids(&menu), ["id-7.0.efi", "id-6.1.conf"]);
    assert_eq!((menu.0[0].release.as_deref(), menu.0[0].unified), (Some("7.0"), true));
    assert_eq!(menu.0[0].tries, Some(Tries { left: 2, done: 1 }));
    assert_eq!(menu.0[1].missing, [boot.join("id/6.1/initrd")]);
    assert_eq!(menu.0[1].release.as_deref(), Some("6.1"));
}

proptest! {
    /// sort_by panics where the order is none.
    #[test]
    fn a_total_order(entries in prop::collection::vec(
        ("[ab][0-2]{1,2}", prop::option::of("[xy]"), "[0-2.~-]{0,3}", prop::option::of(0..2_u32)), 0..40)) {
        let all = menu(entries.iter().map(|(id, key, v, left)| entry(id, key.as_deref(), v, *left)).collect());
        let bad = |e: &Entry| e.tries.is_some_and(|t| t.left == 0);
        prop_assert!(all.0.is_sorted_by_key(bad), "bad ones come last");
    }
}
