//! Pin, unpin and bless on a tree whose update-grub is a small script that does with the settings what the real one does.

use super::*;
use crate::preflight::Severity;
use crate::update::{Event, Record, TargetKernel, bless, undo};

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

/// An update to [`NEW`] that pins [`OLD`] upon what `last` has left.
fn update(m: &Machine, id: &str, last: Option<&Record>) -> Record {
    let target = TargetKernel { release: NEW.into(), image: "/boot/vmlinuz".into(), initrd: None };
    let mut update = Record::new(id.parse().unwrap(), OLD.into(), "b".into(), target);
    update.earlier_pin = last.and_then(Record::pin_to_inherit);
    update.pin = Some(m.pin(OLD).unwrap());
    update
}

/// The same, to its end, with the pin left.
fn ended(m: &Machine, id: &str, last: Option<&Record>) -> Record {
    let mut update = update(m, id, last);
    update.advance(Event::Abort, &m.grub.paths.record()).unwrap();
    update
}

#[test]
fn updates_that_went_wrong_leave_a_pin() {
    for by_hand in [None, Some("# by hand\nGRUB_DEFAULT=1\n")] {
        let m = Machine::new("GRUB_DEFAULT=0\n");
        by_hand.inspect(|text| m.put(SETTING, text));
        m.grub.generate().unwrap();
        let paths = &m.grub.paths;
        let (before, said) = (m.files(), || crate::boot::pinned(paths).map(|f| f.message).unwrap_or_default());
        assert_eq!(said(), "");
        let first = ended(&m, "1", None);
        assert!(said().contains(&format!("boots kernel {OLD} whatever")), "{}", said());
        let second = ended(&m, "2", Some(&first));
        let third = ended(&m, "3", Some(&second));

        let mut given_up = update(&m, "4", Some(&third));
        undo::unpin(paths, &mut given_up).unwrap();
        given_up.advance(Event::Abort, &paths.record()).unwrap();
        assert_eq!((&given_up.earlier_pin, m.boots().as_str()), (&None, OLD), "as it was before");
        assert_eq!(given_up.pin.as_ref().unwrap().before.as_deref(), by_hand);

        undo::let_go(paths, &mut given_up).unwrap();
        assert_eq!((said(), m.files()), (String::new(), before));
    }
}

#[test]
fn the_way_back_from_a_failed_update_keeps_the_pin() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let (paths, before) = (&m.grub.paths, m.files());
    let back = |last: &Record| {
        let mut back = update(&m, "3", Some(last));
        (back.reverses, back.source, back.target.release) = (Some(last.id.clone()), NEW.into(), OLD.into());
        bless::make_default(paths, &mut back).unwrap();
        back.advance(Event::Abort, &paths.record()).unwrap();
        back
    };
    let mut failed = back(&ended(&m, "2", Some(&ended(&m, "1", None))));
    assert_eq!((m.boots().as_str(), failed.pin.is_some(), &failed.earlier_pin), (OLD, true, &None));
    undo::let_go(paths, &mut failed).unwrap();
    assert_eq!((&failed.pin, m.files()), (&None, before.clone()));

    let mut done = update(&m, "4", None);
    bless::make_default(paths, &mut done).unwrap();
    assert_eq!((&done.pin, m.files()), (&None, before));
    done.advance(Event::Abort, &paths.record()).unwrap();
    assert_eq!((back(&done).pin, m.boots().as_str()), (None, OLD), "'kup rollback' is the administrator's choice");
}

#[test]
fn what_somebody_has_set_since_stays() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let by_hand = "# by hand\nGRUB_DEFAULT=0\n";
    let pin = m.pin(OLD).unwrap();
    m.put(SETTING, by_hand);
    m.grub.unpin(&pin).unwrap();
    assert_eq!((m.files().0.as_deref(), m.boots().as_str()), (Some(by_hand), NEW));

    let first = ended(&m, "1", None);
    m.put(SETTING, "# by hand\nGRUB_DEFAULT=1\n");
    let mut second = update(&m, "2", Some(&first));
    bless::make_default(&m.grub.paths, &mut second).unwrap();
    assert_eq!(m.files().0.as_deref(), Some("# by hand\nGRUB_DEFAULT=1\n"));
}

#[test]
fn an_update_to_the_same_kernel_leaves_nothing() {
    let m = Machine::new("GRUB_DEFAULT=0\n");
    let before = m.files();
    let pin = m.pin(NEW).unwrap();
    m.grub.bless(&pin, NEW).unwrap();
    assert_eq!(m.files(), before);
}

#[test]
fn settings_are_read_as_a_shell_reads_them() {
    let m = Machine::new("echo noise\nX=saved\n");
    m.put(GRUBENV, "# GRUB Environment Block\nsaved_entry=1>2\n####");
    let with = |setting| m.grub.booted_with(setting).unwrap().unwrap();
    assert_eq!(with(None), NEW, "without any the first entry is the default");
    m.put("/etc/default/grub.d/10-site.cfg", "GRUB_DEFAULT=$X\n");
    assert_eq!(with(None), OLD);
    m.put(SETTING, "GRUB_DEFAULT=0\n");
    assert_eq!(with(None), OLD, "what is there is not looked at");
    assert_eq!(with(Some("GRUB_DEFAULT='0'\n")), NEW);
    m.put("/etc/default/grub.d/10-site.cfg", "GRUB_DEFAULT='\n");
    assert!(m.grub.booted_with(None).is_err());
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

    for (by_hand, left) in [("1", Some("GRUB_DEFAULT=1\n")), (&format!("1>gnulinux-{OLD}-advanced-{UUID}"), None)] {
        m.put(SETTING, &format!("GRUB_DEFAULT={by_hand}\n").replace('>', "\\>"));
        m.grub.generate().unwrap();
        let pin = m.pin(OLD).unwrap();
        m.grub.bless(&pin, NEW).unwrap();
        assert_eq!((m.files().0.as_deref(), m.boots().as_str()), (left, NEW), "the administrator's own word");
    }

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
