//! Against files that grub-mkconfig 2.12 wrote on Debian 13, and against ones made to be awkward.

use super::*;
use crate::boot::grub::env;
use proptest::prelude::*;

const OLD: &str = "6.12.116+deb13-cloud-amd64";
const NEW: &str = "6.12.117+deb13-cloud-amd64";
const UUID: &str = "afe616a9-b7d0-4056-9874-523235b84380";
const SERIAL: &str = include_str!("testdata/serial.cfg");
const FLAT: &str = include_str!("testdata/flat.cfg");
const SAVED: &str = include_str!("testdata/saved.cfg");

fn menu(text: &str, env: &[(&str, &str)]) -> Menu {
    read(text, &env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()).unwrap()
}

/// Release of what boots by default.
fn boots(menu: &Menu) -> Option<&str> {
    menu.boots()?.last()?.release.as_deref()
}

#[test]
fn debian_with_submenu() {
    let m = menu(SERIAL, &[]);
    assert_eq!(m.default.as_deref(), Some("0"));
    let titles: Vec<_> = m.entries.iter().map(|e| e.title.as_str()).collect();
    assert_eq!(titles, ["Debian GNU/Linux", "Advanced options for Debian GNU/Linux", "UEFI Firmware Settings"]);
    let kernels: Vec<_> =
        m.entries[1].children.as_ref().unwrap().iter().map(|e| (e.release.as_deref(), e.recovery)).collect();
    assert_eq!(kernels, [(Some(NEW), false), (Some(NEW), true), (Some(OLD), false), (Some(OLD), true)]);
    assert!(m.entries[2].uncertain && !m.entries[0].uncertain && !m.saves_default());
    assert_eq!(boots(&m), Some(NEW));
    let want = |release| format!("gnulinux-advanced-{UUID}>gnulinux-{release}-advanced-{UUID}");
    assert_eq!((m.entry_of(OLD), m.entry_of(NEW)), (Some(want(OLD)), Some(want(NEW))));
    assert_eq!(m.entry_of("6.1"), None);
}

#[test]
fn debian_without_submenu() {
    let m = menu(FLAT, &[]);
    assert_eq!(m.entry_of(OLD), Some(format!("gnulinux-{OLD}-advanced-{UUID}")));
    assert_eq!(boots(&m), Some(NEW));
}

#[test]
fn every_way_to_name_the_default() {
    let set = |default: &str| menu(&SERIAL.replace("set default=\"0\"", &format!("set default=\"{default}\"")), &[]);
    let id = set("0").entry_of(OLD).unwrap();
    for (default, want) in [
        ("1>2", Some(OLD)),
        (&*id, Some(OLD)),
        (&*format!("Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux {OLD}"), Some(OLD)),
        (&*format!("1>gnulinux-{OLD}-advanced-{UUID}"), Some(OLD)),
        ("1", Some(NEW)),
        ("", Some(NEW)),
        ("no such entry", Some(NEW)),
        (&*format!("gnulinux-advanced-{UUID}>gone"), Some(NEW)),
        ("17", Some(NEW)),
        ("2", None),
        ("uefi-firmware", None),
    ] {
        assert_eq!(boots(&set(default)), want, "{default}");
    }
    let pinned = set(&id);
    assert_eq!(pinned.boots().unwrap().len(), 2);
}

#[test]
fn saved_and_one_shot_entries() {
    let m = menu(SAVED, &[]);
    assert!(m.saves_default());
    assert_eq!(boots(&m), Some(NEW), "nothing saved: the first entry");
    assert_eq!(boots(&menu(SAVED, &[("saved_entry", "1>2")])), Some(OLD));
    let real = read(SAVED, &env::parse(include_str!("testdata/grubenv"))).unwrap();
    assert_eq!((real.default.as_deref(), boots(&real)), (Some("1"), Some(NEW)));
    for text in [SERIAL, FLAT, SAVED] {
        assert_eq!(menu(text, &[("next_entry", "1>2"), ("saved_entry", "0")]).default.as_deref(), Some("1>2"));
    }
}

#[test]
fn what_cannot_be_known_is_not_guessed() {
    let button = |other: &str| {
        let text = format!(
            "if cmostest 57:5 ; then\n set default=\"{other}\"\nelif [ \"${{next_entry}}\" ] ; then\n set default=x\n\
             else\n set default=\"0\"\nfi\nmenuentry a --id a {{ linux /vmlinuz-6.1\n}}\nmenuentry b {{ chainloader +1; }}"
        );
        menu(&text, &[])
    };
    assert_eq!((button("0").default.as_deref(), boots(&button("0"))), (Some("0"), Some("6.1")));
    assert_eq!((button("1").default, boots(&button("1"))), (None, None));
    assert_eq!(button("0").entries[1].release, None);
    let corrected = "set default='old title'\nif [ \"x$default\" = 'xold title' ]; then default='b'; fi;\n";
    assert_eq!(menu(corrected, &[]).default.as_deref(), Some("b"));
    let looped = "set default=a\nfor x in 1 2; do set default=$x; menuentry y { true; }; done";
    assert_eq!(menu(looped, &[]).default, None);
    assert_eq!(menu("", &[]).boots(), None);
    assert_eq!(menu("submenu a { }", &[]).boots(), None);
    assert_eq!(
        menu("set default=2\n submenu a {\n submenu b {\n menuentry c { linux /vmlinuz-5\n}}}", &[])
            .boots()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn an_id_that_an_earlier_entry_has_is_no_name() {
    let entry = |id: &str, release: &str| format!("menuentry {release} --id {id} {{ linux /vmlinuz-{release}\n}}\n");
    let m = menu(&[entry("v1.0", "2.0"), entry("v1.0", "1.0"), entry("w1.0", "1.0")].concat(), &[]);
    assert_eq!(m.entry_of("1.0").as_deref(), Some("w1.0"));
    let m = menu(&[entry("v1.0", "2.0"), entry("v1.0", "1.0")].concat(), &[]);
    assert_eq!(m.entry_of("1.0"), None);
}

#[test]
fn a_value_that_grows_and_grows_is_unknown() {
    let doubled = "set a=ab\n".to_owned() + &"set a=$a$a\n".repeat(60);
    assert_eq!(menu(&(doubled + "set default=$a\n"), &[]).default, None);
}

#[test]
fn an_arrow_in_an_id_is_doubled() {
    let text = "submenu s --id 'a>b' { menuentry n --id 1.0 { linux /vmlinuz-1.0\n}\nmenuentry t --id v1.0 { linux /vmlinuz-1.0\n}}";
    let m = menu(&format!("set default='a>>b>v1.0'\n{text}"), &[]);
    assert_eq!(m.entry_of("1.0").as_deref(), Some("a>>b>v1.0"), "GRUB would take the id 1.0 for the index 1");
    assert_eq!(m.boots().unwrap()[1].title, "t");
    assert_eq!(steps("a>>b>1.0>"), ["a>b", "1.0", ""]);
}

proptest! {
    /// Cut and garbled real files: an answer or an error, never a panic.
    #[test]
    fn never_panics(cut in 0..SAVED.len(), end in 0..SAVED.len(), junk in "[\"'{}$;\n\\\\>0-9 ]{0,4}", default in "[>0-9a-z]{0,8}") {
        let (from, to) = (cut.min(end), cut.max(end));
        let text = format!("{}{junk}{}", &SAVED[..from], &SAVED[to..]);
        if let Ok(menu) = read(&text, &BTreeMap::from([("saved_entry".into(), default)])) {
            let _ = (menu.boots(), menu.entry_of(OLD), menu.saves_default());
        }
    }
}
