//! Pin, unpin and bless on a tree whose update-grub is a small script that does with the settings what the real one does.

use super::*;
use crate::preflight::Severity;

const OLD: &str = "6.12.116+deb13-cloud-amd64";
const NEW: &str = "6.12.117+deb13-cloud-amd64";
const UUID: &str = "afe616a9-b7d0-4056-9874-523235b84380";

struct Machine {
    dir: tempfile::TempDir,
    grub: Grub,
}

impl Machine {
    /// `settings` is /etc/default/grub.
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let root = dir.path().display();
        let machine = |path: &str, text: &str| {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), text).unwrap();
        };
        machine("/etc/default/grub", settings);
        machine("/template", include_str!("testdata/serial.cfg"));
        machine("/proc/sys/kernel/osrelease", OLD);
        for release in [OLD, NEW] {
            machine(&format!("/boot/vmlinuz-{release}"), "x");
            fs::create_dir_all(paths.at(format!("/lib/modules/{release}"))).unwrap();
        }
        machine(CONFIG, "");
        machine(
            "/usr/sbin/update-grub",
            &format!(
                r#"#!/bin/sh -e
                if [ -e {root}/broken ]; then echo half > {root}{CONFIG}; echo 'no space left' >&2; exit 1; fi
                . {root}/etc/default/grub
                for f in {root}/etc/default/grub.d/*.cfg; do [ ! -e "$f" ] || . "$f"; done
                [ "$GRUB_DEFAULT" != saved ] || GRUB_DEFAULT='${{saved_entry}}'
                echo "$GRUB_DEFAULT" >> {root}/generated
                sed "s|set default=\"0\"|set default=\"$GRUB_DEFAULT\"|" {root}/template > {root}{CONFIG}
                "#
            ),
        );
        fs::set_permissions(paths.at("/usr/sbin/update-grub"), fs::Permissions::from_mode(0o755)).unwrap();
        let machine = Self { grub: Grub::new(&paths).unwrap(), dir };
        machine.grub.generate().unwrap();
        machine
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.grub.paths.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn boots(&self) -> String {
        self.grub.default_release().unwrap().unwrap()
    }

    fn files(&self) -> (Option<String>, String) {
        (read(&self.grub.setting()).unwrap(), fs::read_to_string(self.grub.paths.at(CONFIG)).unwrap())
    }

    fn pin(&self, release: &str) -> Result<Pin> {
        let pin = self.grub.plan(release)?;
        self.grub.pin(&pin, release)?;
        Ok(pin)
    }

    fn ids(&self) -> Vec<(String, Severity)> {
        self.grub.findings().into_iter().map(|f| (f.id, f.severity)).collect()
    }
}

#[test]
fn pinned_and_given_back() {
    for settings in ["GRUB_DEFAULT=0\n", "GRUB_DEFAULT=saved\n"] {
        let m = Machine::new(settings);
        let before = m.files();
        assert_eq!((m.boots().as_str(), m.ids()), (NEW, vec![]));
        let pin = m.pin(OLD).unwrap();
        assert_eq!(pin.entry, format!("gnulinux-advanced-{UUID}>gnulinux-{OLD}-advanced-{UUID}"));
        assert_eq!((pin.before.as_deref(), m.boots().as_str()), (None, OLD));
        m.grub.generate().unwrap();
        assert_eq!(m.boots(), OLD, "a package's update-grub keeps the pin");
        m.grub.unpin(&pin).unwrap();
        m.grub.unpin(&pin).unwrap();
        assert_eq!(m.files(), before);
    }
}

#[test]
fn grubenv_is_only_read() {
    let m = Machine::new("GRUB_DEFAULT=saved\n");
    let block = "# GRUB Environment Block\nsaved_entry=1>2\n####";
    m.put(GRUBENV, block);
    assert_eq!(m.boots(), OLD);
    for blessed in [OLD, NEW] {
        let pin = m.pin(OLD).unwrap();
        m.grub.bless(&pin, blessed).unwrap();
        assert_eq!(m.boots(), blessed);
        assert_eq!(read(&m.grub.paths.at(GRUBENV)).unwrap().as_deref(), Some(block));
    }
}

#[test]
fn what_was_there_comes_back() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    m.put(SETTING, "# by hand\nGRUB_DEFAULT=1\n");
    m.grub.generate().unwrap();
    let before = m.files();
    let pin = m.pin(OLD).unwrap();
    assert_eq!((pin.before.clone(), m.boots().as_str()), (before.0.clone(), OLD));
    m.grub.unpin(&pin).unwrap();
    assert_eq!(m.files(), before);
}

#[test]
fn an_update_that_fell_back_leaves_a_pin() {
    use crate::update::{Event, Record, TargetKernel, undo};
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let paths = &m.grub.paths;
    let (before, said) = (m.files(), || crate::boot::pinned(paths).map(|f| f.id));
    let update = |id: &str| {
        let target = TargetKernel { release: NEW.into(), image: "/boot/vmlinuz".into(), initrd: None };
        Record::new(id.parse().unwrap(), OLD.into(), "b".into(), target)
    };
    let mut first = update("1");
    assert_eq!(said(), None);
    first.pin = Some(m.pin(OLD).unwrap());
    first.advance(Event::Abort, &paths.record()).unwrap();
    assert_eq!(said().as_deref(), Some("boot.pinned"));

    let mut second = update("2");
    second.earlier_pin = first.pin_left().cloned();
    second.pin = Some(m.pin(OLD).unwrap());
    undo::unpin(paths, &mut second).unwrap();
    second.advance(Event::Abort, &paths.record()).unwrap();
    assert_eq!((&second.pin, &second.earlier_pin, m.boots().as_str()), (&first.pin, &None, OLD), "as it was before");

    undo::let_go(paths, &mut second).unwrap();
    assert_eq!((said(), m.files()), (None, before));
}

#[test]
fn blessed() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let pin = m.pin(OLD).unwrap();
    m.grub.bless(&pin, NEW).unwrap();
    assert_eq!((m.files().0, m.boots().as_str()), (None, NEW), "GRUB's own choice is the right one");

    let pin = m.pin(NEW).unwrap();
    m.grub.bless(&pin, OLD).unwrap();
    assert!(m.files().0.unwrap().contains(&format!("gnulinux-{OLD}")), "an older kernel has to be written down");
    assert_eq!(m.boots(), OLD);

    let pin = m.pin(OLD).unwrap();
    assert!(pin.before.is_some());
    fs::remove_file(m.dir.path().join("generated")).unwrap();
    m.grub.bless(&pin, OLD).unwrap();
    let defaults = fs::read_to_string(m.dir.path().join("generated")).unwrap();
    assert!(defaults.lines().all(|default| default.contains(OLD)), "no other one meanwhile: {defaults}");
    assert_eq!(m.boots(), OLD);
    m.grub.bless(&pin, NEW).unwrap();
    assert_eq!((m.files().0, m.boots().as_str()), (None, NEW), "and is forgotten when it is no longer needed");

    let fixed = Machine::new(&format!("GRUB_DEFAULT='1>gnulinux-{OLD}-advanced-{UUID}'\n"));
    let pin = fixed.pin(OLD).unwrap();
    fixed.grub.bless(&pin, NEW).unwrap();
    assert_eq!(fixed.boots(), NEW);
}

#[test]
fn failures_leave_everything_as_it_was() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let before = m.files();
    let refused = |release: &str| {
        let e = format!("{:#}", m.pin(release).unwrap_err());
        assert_eq!(m.files(), before, "{e}");
        e
    };
    assert!(refused("6.1").contains("no entry for kernel 6.1"));
    m.put("/broken", "");
    assert!(refused(OLD).contains("no space left"));
    fs::remove_file(m.dir.path().join("broken")).unwrap();
    m.put("/etc/default/grub.d/zz-site.cfg", "GRUB_DEFAULT=0\n");
    assert!(refused(OLD).contains(&format!("would still boot kernel {NEW}")));
    assert_eq!(m.ids(), [("boot.overridden".into(), Severity::Blocker)]);
    fs::remove_file(m.dir.path().join("etc/default/grub.d/zz-site.cfg")).unwrap();
    m.put(GRUBENV, "# GRUB Environment Block\nnext_entry=1>0\n####");
    assert!(refused(OLD).contains("'1>0' once"));
    assert_eq!(m.ids(), [("boot.one-shot".into(), Severity::Blocker)]);

    m.put(GRUBENV, "");
    let pin = m.pin(OLD).unwrap();
    let pinned = m.files();
    m.put("/broken", "");
    assert!(m.grub.bless(&pin, NEW).is_err());
    assert_eq!(m.files(), pinned, "a pin that cannot be taken away stays whole");
}

#[test]
fn findings() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    m.put("/proc/sys/kernel/osrelease", "6.1\n");
    m.put("/boot/grub/custom.cfg", "set default=3\n");
    let text = m.files().1.replace("load_video\n", "load_video\n savedefault\n");
    m.put(CONFIG, &text);
    let (blocker, warning) = (Severity::Blocker, Severity::Warning);
    let want = [("boot.no-entry", blocker), ("boot.savedefault", warning), ("boot.overridden", blocker)];
    assert_eq!(m.ids(), want.map(|(id, s)| (id.to_string(), s)));
    m.put(CONFIG, &m.files().1.replace("set timeout=1", "set timeout=-1"));
    assert!(m.ids().contains(&("boot.waits".into(), warning)));
    m.put(CONFIG, "if");
    assert_eq!(m.ids()[0], ("boot.unreadable".into(), blocker));

    let m = Machine::new("GRUB_DEFAULT=0\n");
    fs::remove_file(m.dir.path().join("boot/vmlinuz-6.12.116+deb13-cloud-amd64")).unwrap();
    assert_eq!(m.ids(), [("boot.no-entry".to_string(), blocker)]);
}
