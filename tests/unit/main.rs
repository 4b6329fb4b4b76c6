//! Units on directory trees: merging, marks and adjustments. No root, no systemd.

mod adjust;
mod mark;
mod marked;
mod merge;
mod oracle;

use std::fs;
use std::os::unix::fs::symlink;

use kup::paths::Paths;
use kup::unit::{UnitError, UnitFile, UnitName, load};

/// A root file system in a temporary directory.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file; `path` begins at the root.
    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.paths().at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Makes a symbolic link.
    fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.paths().at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// Writes a vendor's unit.
    fn vendor(&self, unit: &str, text: &str) -> &Self {
        self.file(&format!("/usr/lib/systemd/system/{unit}"), text)
    }

    /// Writes an administrator's unit or drop-in.
    fn admin(&self, file: &str, text: &str) -> &Self {
        self.file(&format!("/etc/systemd/system/{file}"), text)
    }

    fn paths(&self) -> Paths {
        Paths::below(self.0.path())
    }

    fn try_load(&self, unit: &str) -> Result<UnitFile, UnitError> {
        load(&self.paths(), &name(unit))
    }

    fn load(&self, unit: &str) -> UnitFile {
        self.try_load(unit).unwrap()
    }

    /// The drop-ins of a unit, from the root.
    fn dropins(&self, unit: &str) -> Vec<String> {
        self.load(unit).dropins.iter().map(|p| self.short(p)).collect()
    }

    fn short(&self, path: &std::path::Path) -> String {
        format!("/{}", path.strip_prefix(self.0.path()).unwrap().display())
    }
}

fn name(unit: &str) -> UnitName {
    unit.parse().unwrap()
}

fn names(units: &[&str]) -> Vec<String> {
    units.iter().map(|u| u.to_string()).collect()
}
