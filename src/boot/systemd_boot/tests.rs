//! Pin, unpin and bless on a tree whose bootctl is a small script that does with the variable what the real one does.

use super::*;
use crate::boot::efi::testing;
use crate::preflight::Severity;
use crate::update::{Event, Record, TargetKernel, bless, undo};

const OLD: &str = "6.12.94+deb13-cloud-amd64";
const NEW: &str = "6.12.107+deb13-cloud-amd64";
const TOKEN: &str = "5b5a3b0c9dd0459f9ae1c0ffee5b5a3b";

struct Machine {
    _dir: tempfile::TempDir,
    boot: SystemdBoot,
}

impl Machine {
    /// As kernel-install makes it, booted into [`OLD`].
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let variable = format!("{root}/sys/firmware/efi/efivars/{DEFAULT}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
        let bootctl = format!(
            r#"#!/bin/sh -e
            case $1 in
            --print-*) echo {root}/boot/efi ;;
            set-default)
                if [ -e {root}/broken ]; then echo 'no space left' >&2; exit 1; fi
                if [ -e {root}/deaf ]; then exit 0; fi
                echo "${{2:-nothing}}" >>{root}/said
                rm -f {variable}
                [ -z "$2" ] || (printf '\007\0\0\0'; printf %s "$2" | sed 's/./&\x00/g'; printf '\0\0') >{variable}
                ;;
            *) exit 2 ;;
            esac
            "#
        );
        let paths = Paths::below(dir.path());
        testing::set(&paths, "LoaderInfo", Some("systemd-boot 257.13-1~deb13u1"));
        testing::set(&paths, "LoaderEntrySelected", Some(&id(OLD)));
        let put = |path: &str, text: &str| put(&paths, path, text);
        put("/script", &bootctl);
        // Not written by ourselves: what another test's thread forks at that moment would hold it open for writing, and a
        // program that is written to cannot be executed.
        fs::create_dir_all(paths.at(BOOTCTL).parent().unwrap()).unwrap();
        let mut install = std::process::Command::new("install");
        install.arg("-m755").args([paths.at("/script"), paths.at(BOOTCTL)]);
        assert!(install.status().unwrap().success());
        put("/etc/machine-id", &format!("{TOKEN}\n"));
        put("/proc/sys/kernel/osrelease", OLD);
        for release in [OLD, NEW] {
            put(&format!("/boot/vmlinuz-{release}"), "x");
            fs::create_dir_all(paths.at(format!("/lib/modules/{release}"))).unwrap();
        }
        let machine = Self { boot: SystemdBoot::new(&paths).unwrap(), _dir: dir };
        machine.install(OLD, "");
        machine.install(NEW, "");
        machine
    }

    fn put(&self, path: &str, text: &str) {
        put(&self.boot.paths, path, text);
    }

    /// What `kernel-install add` does; `counter` as in `+3`.
    fn install(&self, release: &str, counter: &str) {
        let real = include_str!("testdata/kernel-install.conf");
        let entry = real.replace("6.12.107+deb13-cloud-amd64", release);
        self.put(&format!("/boot/efi/loader/entries/{TOKEN}-{release}{counter}.conf"), &entry);
        self.put(&format!("/boot/efi/{TOKEN}/{release}/linux"), "x");
        self.put(&format!("/boot/efi/{TOKEN}/{release}/initrd.img-{release}"), "x");
    }

    /// What `kernel-install remove` does.
    fn uninstall(&self, release: &str) {
        for file in self.entries().iter().filter(|f| f.contains(release)) {
            fs::remove_file(self.boot.paths.at("/boot/efi/loader/entries").join(file)).unwrap();
        }
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.boot.paths.at("/boot/efi/loader/entries")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn set(&self, name: &str, value: Option<&str>) {
        testing::set(&self.boot.paths, name, value);
    }

    fn variable(&self) -> Option<String> {
        efi::loader(&self.boot.paths, DEFAULT).unwrap()
    }

    fn pin(&self, release: &str) -> Result<Pin> {
        let pin = self.boot.plan(release)?;
        self.boot.pin(&pin, release)?;
        Ok(pin)
    }

    fn boots(&self) -> String {
        self.boot.default_release().unwrap().unwrap_or_default()
    }

    fn ids(&self) -> Vec<(String, Severity)> {
        self.boot.findings().into_iter().map(|f| (f.id, f.severity)).collect()
    }
}

fn put(paths: &Paths, path: &str, text: &str) {
    let path = paths.at(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn id(release: &str) -> String {
    format!("{TOKEN}-{release}.conf")
}

#[test]
fn pinned_and_given_back() {
    for before in [None, Some(id(NEW)), Some("@saved".into()), Some("*-cloud-amd64.conf".into())] {
        let m = Machine::new();
        if let Some(before) = &before {
            m.set(DEFAULT, Some(before));
        }
        assert_eq!(m.boots(), NEW);
        let pin = m.pin(OLD).unwrap();
        assert_eq!(pin, Pin { loader: "systemd-boot".into(), entry: id(OLD), before: before.clone() });
        assert_eq!((m.variable(), m.boots().as_str()), (Some(id(OLD)), OLD));
        m.install("7.0-cloud-amd64", "+3");
        assert_eq!(m.boots(), OLD, "a kernel that is installed meanwhile is not booted");
        m.boot.unpin(&pin).unwrap();
        m.boot.unpin(&pin).unwrap();
        assert_eq!(m.variable(), before);
    }
}

#[test]
fn a_pin_that_was_only_planned_changes_nothing() {
    let m = Machine::new();
    m.set(DEFAULT, Some("@saved"));
    let pin = m.boot.plan(OLD).unwrap();
    m.boot.unpin(&pin).unwrap();
    assert_eq!(m.variable().as_deref(), Some("@saved"));
    m.boot.pin(&pin, OLD).unwrap();
    m.set(DEFAULT, Some("by-hand.conf"));
    m.boot.unpin(&pin).unwrap();
    assert_eq!(m.variable().as_deref(), Some("by-hand.conf"), "set by somebody since");
}

#[test]
fn the_counter_changes_and_the_pin_stays() {
    let m = Machine::new();
    m.uninstall(OLD);
    m.install(OLD, "+3");
    let pin = m.pin(OLD).unwrap();
    assert_eq!(pin.entry, id(OLD));
    for counter in ["+2-1", "+0-3", ""] {
        m.uninstall(OLD);
        m.install(OLD, counter);
        assert_eq!(m.boots(), OLD, "{counter}");
    }
}

#[test]
fn blessed() {
    let m = Machine::new();
    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, NEW).unwrap();
    assert_eq!((m.variable(), m.boots().as_str()), (None, NEW), "systemd-boot's own choice is the right one");

    let pin = m.pin(NEW).unwrap();
    m.boot.bless(&pin, OLD).unwrap();
    assert_eq!((m.variable(), m.boots().as_str()), (Some(id(OLD)), OLD), "an older kernel has to be written down");

    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, NEW).unwrap();
    assert_eq!((m.variable(), m.boots().as_str()), (None, NEW), "and is forgotten when it is no longer needed");

    m.set(DEFAULT, Some("*-cloud-amd64.conf"));
    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, NEW).unwrap();
    assert_eq!(m.variable().as_deref(), Some("*-cloud-amd64.conf"), "the administrator's own word does as well");

    m.set(DEFAULT, None);
    m.put("/boot/efi/loader/loader.conf", &format!("default {TOKEN}-6.12.94*\n"));
    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, NEW).unwrap();
    assert_eq!((m.variable(), m.boots().as_str()), (Some(id(NEW)), NEW), "loader.conf is not kup's to change");
}

/// An update to [`NEW`] that pins [`OLD`] upon what `last` has left.
fn update(m: &Machine, last: Option<&Record>) -> Record {
    let target = TargetKernel { release: NEW.into(), image: "/boot/vmlinuz".into(), initrd: None };
    let mut update = Record::new("5a".parse().unwrap(), OLD.into(), "b".into(), target);
    update.earlier_pin = last.and_then(Record::pin_to_inherit);
    update.pin = Some(m.pin(OLD).unwrap());
    update
}

/// The same, to its end, with the pin left.
fn ended(m: &Machine, last: Option<&Record>) -> Record {
    let mut update = update(m, last);
    update.advance(Event::Abort, &m.boot.paths.record()).unwrap();
    update
}

const BY_HAND: &str = "*-cloud-amd64.conf";

#[test]
fn what_was_there_first_comes_back() {
    let m = Machine::new();
    m.set(DEFAULT, Some(BY_HAND));
    let three = |m: &Machine| ended(m, Some(&ended(m, Some(&ended(m, None)))));
    let mut third = three(&m);
    assert_eq!(m.boots(), OLD);
    undo::let_go(&m.boot.paths, &mut third).unwrap();
    assert_eq!((third.pin, m.variable().as_deref()), (None, Some(BY_HAND)));

    let mut good = update(&m, Some(&three(&m)));
    bless::make_default(&m.boot.paths, &mut good).unwrap();
    assert_eq!((good.pin, m.variable().as_deref()), (None, Some(BY_HAND)));

    let failed = three(&m);
    let mut back = update(&m, Some(&failed));
    (back.reverses, back.source, back.target.release) = (Some(failed.id), NEW.into(), OLD.into());
    bless::make_default(&m.boot.paths, &mut back).unwrap();
    assert_eq!((m.boots().as_str(), &back.earlier_pin), (OLD, &None), "what failed is not booted");
    back.advance(Event::Abort, &m.boot.paths.record()).unwrap();
    undo::let_go(&m.boot.paths, &mut back).unwrap();
    assert_eq!(m.variable().as_deref(), Some(BY_HAND));
}

#[test]
fn what_somebody_has_set_since_stays() {
    let m = Machine::new();
    let first = ended(&m, None);
    m.set(DEFAULT, Some(BY_HAND));
    let mut second = update(&m, Some(&first));
    undo::unpin(&m.boot.paths, &mut second).unwrap();
    assert_eq!((second.pin, m.variable().as_deref()), (None, Some(BY_HAND)), "given up");

    let mut second = update(&m, Some(&first));
    bless::make_default(&m.boot.paths, &mut second).unwrap();
    assert_eq!((second.pin, m.variable().as_deref()), (None, Some(BY_HAND)), "blessed");
}

/// A reset in the middle of it would boot what the variable names by then.
#[test]
fn what_is_pinned_stays_the_default_while_it_is_blessed() {
    let m = Machine::new();
    m.set(DEFAULT, Some(&id(NEW)));
    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, OLD).unwrap();
    let said = fs::read_to_string(m.boot.paths.at("/said")).unwrap();
    assert_eq!((said, m.boots()), (format!("{}\n", id(OLD)), OLD.into()));
}

#[test]
fn the_new_kernel_has_proven_itself() {
    for counter in ["+3", "+2-1", "+0-3"] {
        let m = Machine::new();
        m.uninstall(NEW);
        m.install(NEW, counter);
        let pin = m.pin(OLD).unwrap();
        m.boot.bless(&pin, NEW).unwrap();
        assert_eq!((m.variable(), m.boots().as_str()), (None, NEW), "{counter}");
        assert_eq!(m.entries(), [id(NEW), id(OLD)]);
    }
    let m = Machine::new();
    m.install(NEW, "+0-3");
    let before = m.entries();
    let pin = m.pin(OLD).unwrap();
    m.boot.bless(&pin, NEW).unwrap();
    assert_eq!(m.entries(), before, "a file is never replaced");
}

#[test]
fn failures_leave_everything_as_it_was() {
    let m = Machine::new();
    m.set(DEFAULT, Some("@saved"));
    let refused = |release: &str| {
        let e = format!("{:#}", m.pin(release).unwrap_err());
        assert_eq!(m.variable().as_deref(), Some("@saved"), "{e}");
        e
    };
    assert!(refused("6.1").contains("no entry for kernel 6.1"));
    m.put("/broken", "");
    assert!(refused(OLD).contains("no space left"));
    fs::remove_file(m.boot.paths.at("/broken")).unwrap();
    m.put("/deaf", "");
    assert!(refused(OLD).contains("LoaderEntryDefault is '@saved' and not"));
    fs::remove_file(m.boot.paths.at("/deaf")).unwrap();
    m.set("LoaderEntryOneShot", Some("auto-reboot-to-firmware-setup"));
    assert!(refused(OLD).contains("'auto-reboot-to-firmware-setup' once"));
    assert_eq!(m.ids(), [("boot.one-shot".into(), Severity::Blocker), ("boot.savedefault".into(), Severity::Warning)]);
    m.set("LoaderEntryOneShot", None);

    testing::set_raw(&m.boot.paths, "LoaderFeatures", &[6, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
    m.set("LoaderEntryPreferred", Some(&id(NEW)));
    assert!(refused(OLD).contains(&format!("would still boot kernel {NEW}")));
    m.set("LoaderEntryPreferred", None);

    let pin = m.pin(OLD).unwrap();
    m.uninstall(NEW);
    assert!(m.boot.bless(&pin, NEW).is_err());
    assert_eq!((m.variable(), m.boots().as_str()), (Some(id(OLD)), OLD), "a pin that cannot be taken away stays");

    m.set(DEFAULT, Some("@current"));
    assert!(format!("{:#}", m.boot.plan(OLD).unwrap_err()).contains("'@current'"));
}

#[test]
fn after_a_kexec_the_selected_entry_is_the_old_kernels() {
    let m = Machine::new();
    m.put("/proc/sys/kernel/osrelease", NEW);
    assert_eq!(m.ids(), []);
    assert_eq!(m.pin(NEW).unwrap().entry, id(NEW));
}

#[test]
fn findings() {
    let (blocker, warning) = (Severity::Blocker, Severity::Warning);
    let m = Machine::new();
    assert_eq!(m.ids(), []);
    m.put("/boot/efi/loader/loader.conf", "timeout menu-force\ndefault @saved\npreferred x\n");
    let want = [("boot.savedefault", warning), ("boot.waits", warning)];
    assert_eq!(m.ids(), want.map(|(id, s)| (id.to_string(), s)), "'preferred' is not known to this version");
    testing::set_raw(&m.boot.paths, "LoaderFeatures", &[6, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
    m.set("LoaderConfigTimeout", Some("5"));
    m.set("LoaderConfigTimeoutOneShot", Some("0"));
    let want = [("boot.overridden", blocker), ("boot.savedefault", warning), ("boot.waits", warning)];
    assert_eq!(m.ids(), want.map(|(id, s)| (id.to_string(), s)));

    let m = Machine::new();
    fs::remove_file(m.boot.paths.at(format!("/boot/efi/{TOKEN}/{OLD}/initrd.img-{OLD}"))).unwrap();
    assert_eq!(m.ids(), [("boot.no-entry".to_string(), blocker)]);
    assert!(m.boot.findings()[0].message.contains("initrd.img"), "{:?}", m.boot.findings());
    m.uninstall(OLD);
    assert_eq!(m.ids(), [("boot.no-entry".to_string(), blocker)]);

    let m = Machine::new();
    fs::remove_file(m.boot.paths.at(format!("/boot/vmlinuz-{OLD}"))).unwrap();
    assert_eq!(m.ids(), [("boot.no-entry".to_string(), blocker)]);

    let m = Machine::new();
    m.put(BOOTCTL, "#!/bin/sh\necho 'no ESP' >&2\nexit 1\n");
    assert_eq!(m.ids(), [("boot.unreadable".to_string(), blocker)]);
}

#[test]
fn a_unified_kernel_image() {
    let m = Machine::new();
    m.uninstall(OLD);
    let image = uki::testing::image(&[(".osrel", "ID=debian\nVERSION_ID=13\n"), (".uname", OLD)]);
    let file = m.boot.paths.at(format!("/boot/efi/EFI/Linux/{TOKEN}-{OLD}+2-1.efi"));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, image).unwrap();
    assert_eq!(m.ids(), [("boot.cmdline".to_string(), Severity::Warning)]);
    m.put("/etc/kernel/cmdline", "ro\n");
    assert_eq!(m.ids(), []);
    let pin = m.pin(OLD).unwrap();
    assert_eq!((pin.entry.as_str(), m.boots().as_str()), (format!("{TOKEN}-{OLD}.efi").as_str(), OLD));
    m.boot.bless(&pin, OLD).unwrap();
    assert!(!file.exists() && file.with_file_name(pin.entry).exists(), "its counter is gone");
}
