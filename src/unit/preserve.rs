//! The mark: what a unit's files ask of kup.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::load::load_from;
use super::{UnitError, UnitFile, UnitName, Value, tree};
use crate::paths::Paths;

/// The sections that kup reads. `[X-KUP]` is the one that systemd is silent about.
const SECTIONS: [&str; 3] = ["X-KUP", "Service", "Unit"];

/// A change to a unit that only the administrator can decide on (`KUPAdjust=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjust {
    /// io_uring looks as if the kernel had none; programs fall back to epoll or libaio.
    NoIoUring,
    /// An IPC namespace of its own, so that System V shared memory can be preserved.
    PrivateIpc,
}

impl Adjust {
    /// All of them, as they are written.
    const KNOWN: &str = "no-io-uring, private-ipc";

    /// As it is written behind `KUPAdjust=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Adjust::NoIoUring => "no-io-uring",
            Adjust::PrivateIpc => "private-ipc",
        }
    }

    /// The adjustment of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Adjust::NoIoUring, Adjust::PrivateIpc].into_iter().find(|a| a.as_str() == word)
    }
}

/// What a unit falls back on when the new kernel does not come up (`KUPFallback=`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Its image is on disk before the switch.
    #[default]
    Disk,
    /// Nothing: it starts cold then.
    None,
}

impl Fallback {
    /// As it is written behind `KUPFallback=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Fallback::Disk => "disk",
            Fallback::None => "none",
        }
    }

    /// The fallback of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Fallback::Disk, Fallback::None].into_iter().find(|f| f.as_str() == word)
    }
}

/// Where a unit's memory is kept over the switch (`KUPStorage=`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// In RAM where that can be, else on the disk.
    Auto,
    /// On the disk.
    #[default]
    Disk,
    /// In RAM, or there is no update.
    Ram,
}

impl Storage {
    /// As it is written behind `KUPStorage=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Storage::Auto => "auto",
            Storage::Disk => "disk",
            Storage::Ram => "ram",
        }
    }

    /// The storage of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Storage::Auto, Storage::Disk, Storage::Ram].into_iter().find(|s| s.as_str() == word)
    }
}

/// Where an assignment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line in it, counted from 1.
    pub line: u32,
}

impl From<&Value> for Origin {
    fn from(value: &Value) -> Self {
        Self { file: value.file.to_path_buf(), line: value.line }
    }
}

/// What a unit's files say to kup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreserveSpec {
    /// `KUPPreserve=`: whether the unit is to live through updates.
    pub preserve: bool,
    /// Where that is said; `None` where nothing is.
    pub origin: Option<Origin>,
    /// `KUPHealthCheck=`: a command line that tells whether the unit is well after an update.
    pub health_check: Option<String>,
    /// `KUPFallback=`; the machine's setting where absent.
    pub fallback: Option<Fallback>,
    /// `KUPStorage=`; the machine's setting where absent.
    pub storage: Option<Storage>,
    /// `KUPAdjust=`, without repetitions, in their own order.
    pub adjust: Vec<Adjust>,
}

impl PreserveSpec {
    /// Reads what `unit` says. Of several assignments the last one counts, whichever of the sections and spellings
    /// (`KUPPreserve=`, `X-KUPPreserve=`) they use.
    ///
    /// # Errors
    /// A value that its key does not take, with file and line.
    pub fn of(unit: &UnitFile) -> Result<Self, UnitError> {
        let mut spec = Self::default();
        if let Some(value) = last(unit, "KUPPreserve") {
            spec.origin = Some(value.into());
            spec.preserve = unit.to_bool("KUPPreserve", value)?;
        }
        spec.health_check = last(unit, "KUPHealthCheck").map(|v| v.as_str().to_string());
        if let Some(value) = last(unit, "KUPFallback") {
            let fallback = Fallback::from_word(value.as_str());
            spec.fallback =
                Some(fallback.ok_or_else(|| unknown(unit, "KUPFallback", value, value.as_str(), "disk, none"))?);
        }
        if let Some(value) = last(unit, "KUPStorage") {
            let storage = Storage::from_word(value.as_str());
            spec.storage =
                Some(storage.ok_or_else(|| unknown(unit, "KUPStorage", value, value.as_str(), "auto, disk, ram"))?);
        }
        for value in unit.all_of(is_key("KUPAdjust")) {
            for word in value.as_str().split_ascii_whitespace() {
                let adjust = Adjust::from_word(word);
                spec.adjust.push(adjust.ok_or_else(|| unknown(unit, "KUPAdjust", value, word, Adjust::KNOWN))?);
            }
        }
        spec.adjust.sort();
        spec.adjust.dedup();
        Ok(spec)
    }
}

fn is_key(key: &str) -> impl Fn(&str, &str) -> bool {
    move |s, k| SECTIONS.contains(&s) && k.strip_prefix("X-").unwrap_or(k) == key
}

fn last<'a>(unit: &'a UnitFile, key: &str) -> Option<&'a Value> {
    unit.last_of(is_key(key))
}

fn unknown(unit: &UnitFile, key: &str, value: &Value, word: &str, known: &'static str) -> UnitError {
    UnitError::UnknownWord {
        unit: unit.name.clone(),
        key: key.into(),
        value: word.into(),
        known,
        file: value.file.to_path_buf(),
        line: value.line,
    }
}

/// Everything on the machine that is marked.
#[derive(Debug, Default)]
pub struct Marked {
    /// Services, instances of marked templates among them, by their main names.
    pub units: Vec<(UnitFile, PreserveSpec)>,
    /// Templates: instances that nothing tells of yet will be marked too.
    pub templates: Vec<(UnitFile, PreserveSpec)>,
    /// Marks that cannot be read, and marks of units that do not exist.
    pub errors: Vec<UnitError>,
}

/// Finds all marked units, by their main names. Instances of a marked template are those that are enabled (a link in
/// `.wants/` and the like), have a file or drop-in of their own, or run. Masked units are left out: they do not start.
pub fn marked(paths: &Paths) -> (Vec<(UnitName, PreserveSpec)>, Vec<UnitError>) {
    let found = scan(paths);
    (found.units.into_iter().map(|(unit, spec)| (unit.name, spec)).collect(), found.errors)
}

/// As [`marked`], with the units' files and the templates.
pub fn scan(paths: &Paths) -> Marked {
    let mut found = Marked::default();
    let index = match Index::read(paths) {
        Ok(index) => index,
        Err(e) => {
            found.errors.push(e);
            return found;
        }
    };
    // Most machines have no or few marks: nothing is merged before a file speaks of kup at all.
    let speaking = match Speaking::find(&index) {
        Ok(speaking) if speaking.0.is_empty() => return found,
        Ok(speaking) => speaking,
        Err(e) => {
            found.errors.push(e);
            return found;
        }
    };
    let mut seen = std::collections::BTreeSet::new();
    for name in index.units().into_iter().chain(index.templates()) {
        let is_template = name.stem().ends_with('@');
        match speaking.load(&index, &name) {
            Ok(Some((unit, spec))) if seen.insert(unit.name.clone()) && spec.preserve => {
                if is_template {
                    found.templates.push((unit, spec))
                } else {
                    found.units.push((unit, spec))
                }
            }
            Ok(_) | Err(UnitError::Masked { .. }) => {}
            Err(e) => found.errors.push(e),
        }
    }
    found
}

/// The files that contain `KUP` at all.
struct Speaking(std::collections::BTreeSet<PathBuf>);

impl Speaking {
    fn find(index: &Index) -> Result<Self, UnitError> {
        let mut files: Vec<PathBuf> = index.fragments().map(Into::into).collect();
        for dir in index.dropin_dirs() {
            let names = tree::list(index.paths, dir).map_err(|cause| io(index, dir, cause))?;
            files.extend(names.into_iter().filter(|(n, _)| n.ends_with(".conf")).map(|(n, _)| dir.join(n)));
        }
        files.retain(|f| {
            // A file that cannot be read is an error only for the unit that it belongs to.
            let text = tree::read(index.paths, f).ok().flatten().unwrap_or_default();
            text.windows(3).any(|w| w == b"KUP")
        });
        Ok(Self(files.into_iter().collect()))
    }

    /// The unit and its spec, where one of its files speaks of kup.
    fn load(&self, index: &Index, name: &UnitName) -> Result<Option<(UnitFile, PreserveSpec)>, UnitError> {
        let found = match index.find(name) {
            Ok(found) => found,
            // A name that is only mentioned somewhere is no error; a mark in a drop-in of no unit is.
            Err(e @ UnitError::NotFound { .. }) => {
                let own = index.dropins(name.as_str(), &Default::default())?;
                let dir = format!("{name}.d");
                let marks = own.iter().any(|f| self.0.contains(f) && f.parent().is_some_and(|d| d.ends_with(&dir)));
                return if marks { Err(e) } else { Ok(None) };
            }
            Err(_) => return Ok(None),
        };
        let dropins = index.dropins(&found.id, &found.aliases)?;
        if !self.0.contains(&found.fragment) && !dropins.iter().any(|f| self.0.contains(f)) {
            return Ok(None);
        }
        let unit = load_from(index, name)?;
        let spec = PreserveSpec::of(&unit)?;
        Ok(Some((unit, spec)))
    }
}

fn io(index: &Index, path: &std::path::Path, cause: std::io::Error) -> UnitError {
    UnitError::Io { path: index.paths.at(path), cause }
}
