use std::sync::Arc;

use super::*;
use crate::criu::{image, pstree::tests::write as pstree};
use crate::store::{Disk, Foam, Memory, Owner, PAGE};
use crate::update::{Carried, Event, TargetKernel};

/// criu/include/magic.h.
const MM_MAGIC: u32 = 0x5749_2820;
const PID: i32 = 40712;
const ADDRESS: u64 = 0x7f00_0000_0000;

struct Bench {
    _dir: tempfile::TempDir,
    paths: Paths,
    unit: UnitName,
    record: Record,
}

impl Bench {
    /// A checkpoint after the switch, of one process with one page of `a`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (paths, unit) = (Paths::below(dir.path()), "a.service".parse::<UnitName>().unwrap());
        for (path, text) in [("/proc/cmdline", "quiet kup.txn=5a"), ("/proc/sys/kernel/random/boot_id", "next\n")] {
            fs::create_dir_all(paths.at(path).parent().unwrap()).unwrap();
            fs::write(paths.at(path), text).unwrap();
        }
        fs::create_dir_all(paths.record().parent().unwrap()).unwrap();
        let images = paths.images("5a").join(unit.as_str());
        fs::create_dir_all(&images).unwrap();
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "source".into(), target);
        for event in [Event::Pass, Event::Armed, Event::Shutdown, Event::Committed] {
            record.advance(event, &paths.record()).unwrap();
        }
        let carried = vec![Carried { path: "/run/a".into(), archive: "carried-0.tar".into() }];
        let manifest = Some(images_of(&images, b'a'));
        let found = UnitRecord { state: UnitState::Imaged, manifest, carried, ..UnitRecord::default() };
        record.units.insert(unit.clone(), found);
        record.save(&paths.record()).unwrap();
        Self { _dir: dir, paths, unit, record }
    }

    fn images(&self) -> std::path::PathBuf {
        self.paths.images("5a").join(self.unit.as_str())
    }

    fn to(&self, name: &str) -> std::path::PathBuf {
        self.paths.at(format!("/{name}"))
    }

    fn stand(&mut self, state: UnitState) {
        self.record.units.get_mut(&self.unit).unwrap().state = state;
        self.record.save(&self.paths.record()).unwrap();
    }

    fn import(&self, dir: &str) -> String {
        import(&self.paths, &self.unit, &self.to(dir)).map_or_else(|e| format!("{e:#}"), |()| String::new())
    }

    fn export(&self, dir: &str) -> String {
        export(&self.paths, &self.unit, &self.to(dir)).map_or_else(|e| format!("{e:#}"), |()| String::new())
    }
}

fn images_of(images: &Path, byte: u8) -> String {
    let mut foam = Foam::new(Arc::new(Disk::create(&images.join(plain::SLOTS)).unwrap()));
    foam.begin(Owner::Process(PID)).unwrap();
    foam.write(Owner::Process(PID), ADDRESS, &[byte; PAGE as usize], false).unwrap();
    foam.end_round();
    let mut mm = Vec::new();
    image::head(&mut mm, MM_MAGIC).unwrap();
    mm.extend([0; 4]);
    fs::write(images.join(format!("mm-{PID}.img")), mm).unwrap();
    pstree(images, &[PID as u32]);
    fs::write(images.join("carried-0.tar"), "an archive").unwrap();
    plain::finish(foam, images).unwrap();
    manifest::write(images).unwrap()
}

/// The only page, as plain images have it.
fn page_in(dir: &Path) -> std::path::PathBuf {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    names.into_iter().find(|p| p.to_string_lossy().contains("/pages-")).unwrap()
}

#[test]
fn it_goes_out_is_changed_and_comes_back() {
    let bench = Bench::new();
    // What a restore that failed leaves behind.
    let _socket = std::os::unix::net::UnixListener::bind(bench.images().join("lazy-pages.socket")).unwrap();
    assert_eq!(bench.export("out"), "");
    let out = bench.to("out");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["carried-0.tar", "mm-40712.img", "pagemap-40712.img", "pages-65537.img", "pstree.img"]);
    assert_eq!(fs::read(page_in(&out)).unwrap(), [b'a'; PAGE as usize]);
    assert!(bench.export("out").contains("is not empty"));

    fs::write(page_in(&out), [b'b'; PAGE as usize]).unwrap();
    assert_eq!(bench.import("out"), "");
    let (record, mut page) = (Record::load(&bench.paths.record()).unwrap().unwrap(), [0; PAGE as usize]);
    let digest = record.units[&bench.unit].manifest.clone().unwrap();
    manifest::verify(&bench.images(), &digest).unwrap();
    plain::open(&bench.images(), None).unwrap().process(PID).unwrap().read(ADDRESS, &mut page).unwrap();
    assert_eq!(page, [b'b'; PAGE as usize]);
    assert!(!bench.paths.images("5a").join(NEW).exists());
    assert_eq!(bench.export("again"), "");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    assert_eq!(bench.export("out"), "");
    let (out, before) = (bench.to("out"), fs::read(bench.images().join("manifest.json")).unwrap());
    let refused = |why: &str| {
        let said = bench.import("out");
        assert!(said.contains(why), "{said}");
        assert_eq!(fs::read(bench.images().join("manifest.json")).unwrap(), before);
        assert!(!bench.paths.images("5a").join(NEW).exists());
    };
    fs::write(page_in(&out), "cut off").unwrap();
    refused("pages-65537.img");
    fs::remove_file(out.join("carried-0.tar")).unwrap();
    refused("carried-0.tar");
    pstree(&out, &[7]);
    refused("other processes");
    fs::set_permissions(&out, Permissions::from_mode(0o770)).unwrap();
    refused("others can change");
    fs::write(bench.images().join("pstree.img"), "rot").unwrap();
    let said = bench.export("rotten");
    assert!(said.contains("pstree.img") && !bench.to("rotten").exists(), "{said}");
}

#[test]
fn every_state_has_its_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.export("out"), "");
    let cold = UnitState::Cold { reason: "accepted".into() };
    for (state, export, import) in [
        (UnitState::Running, "no checkpoint", "no checkpoint"),
        (UnitState::Void, "has run on", "has run on"),
        (cold, "accepted", "accepted"),
        (UnitState::Resumed, "", "at most once"),
    ] {
        bench.stand(state.clone());
        let said = (bench.export("other"), bench.import("out"));
        assert!(said.0.contains(export) && said.0.is_empty() == export.is_empty(), "{state:?}: {said:?}");
        assert!(said.1.contains(import), "{state:?}: {said:?}");
    }
    bench.stand(UnitState::Imaged);
    for (boot, why) in [("source", "about to leave"), ("next", "")] {
        fs::write(bench.paths.at("/proc/sys/kernel/random/boot_id"), boot).unwrap();
        assert!(bench.import("out").contains(why));
    }
    bench.unit = "b.service".parse().unwrap();
    assert!(bench.export("b").contains("not part of update 5a"));
    undo::wipe(&bench.paths.images_root()).unwrap();
    bench.unit = "a.service".parse().unwrap();
    assert!(bench.export("gone").contains("not there"));
}
