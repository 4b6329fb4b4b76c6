//! One unit, merged from its file and all its drop-ins as systemd merges them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::{UnitError, UnitName, parse, tree};
use crate::paths::Paths;

/// Drop-ins that the generator writes (also with `~` before them, where they have to come last); what a unit asks for
/// by itself is what stands in the other files.
pub const GENERATED: [&str; 2] = ["50-kup-adjust.conf", "zz-kup-restore.conf"];

/// One assigned value, and where it was assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    text: String,
    /// The file that it stands in.
    pub file: Arc<Path>,
    /// The line in it, counted from 1.
    pub line: u32,
}

impl Value {
    /// What stands behind the `=`; specifiers and quotes are as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    section: String,
    key: String,
    value: Value,
}

/// A unit as systemd would load it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Its main name, also where it was loaded by an alias.
    pub name: UnitName,
    /// Its own file; for an instance mostly the template's. Always there: a unit without one is not loaded.
    pub fragment: Option<PathBuf>,
    /// Its drop-ins, in the order in which they apply.
    pub dropins: Vec<PathBuf>,
    /// Its other names.
    pub aliases: BTreeSet<UnitName>,
    assigned: Vec<Assigned>,
}

/// Loads `unit`, which may be an alias, an instance or a template.
///
/// # Errors
/// When it does not exist, is masked, or a file of it cannot be read.
pub fn load(paths: &Paths, unit: &UnitName) -> Result<UnitFile, UnitError> {
    load_from(&Index::read(paths)?, unit)
}

pub(super) fn load_from(index: &Index, unit: &UnitName) -> Result<UnitFile, UnitError> {
    let found = index.find(unit)?;
    let masked = || UnitError::Masked { unit: unit.clone(), by: index.paths.at(&found.fragment) };
    if index.is_null(&found.fragment) {
        return Err(masked());
    }
    let text = match read(index, &found.fragment)? {
        None => return Err(UnitError::NotFound { unit: unit.clone() }),
        Some(text) if text.is_empty() => return Err(masked()),
        Some(text) => text,
    };
    // Names in the search path are of the form of unit names, and so are those built from them.
    let name = found.id.parse().unwrap_or_else(|_| unit.clone());
    let mut file = UnitFile::parse(name, &index.paths.at(&found.fragment), &text)?;
    file.aliases = found.aliases.iter().filter_map(|n| n.parse().ok()).collect();
    for dropin in index.dropins(&found.id, &found.aliases)? {
        // An empty drop-in masks those of its name in directories below; it says nothing itself.
        if let Some(text) = read(index, &dropin)?.filter(|t| !t.is_empty()) {
            file.drop_in(&index.paths.at(&dropin), &text);
        }
    }
    Ok(file)
}

fn read(index: &Index, path: &Path) -> Result<Option<Vec<u8>>, UnitError> {
    tree::read(index.paths, path).map_err(|cause| UnitError::Io { path: index.paths.at(path), cause })
}

impl UnitFile {
    /// The unit that its fragment, the content `text` of `path`, makes by itself.
    ///
    /// # Errors
    /// [`UnitError::BrokenSection`].
    pub fn parse(name: UnitName, path: &Path, text: &[u8]) -> Result<Self, UnitError> {
        let mut file = Self {
            name,
            fragment: Some(path.into()),
            dropins: Vec::new(),
            aliases: BTreeSet::new(),
            assigned: Vec::new(),
        };
        match file.merge(path, text) {
            Some(line) => Err(UnitError::BrokenSection { unit: file.name, file: path.into(), line }),
            None => Ok(file),
        }
    }

    /// Adds a drop-in behind those that are there.
    pub fn drop_in(&mut self, path: &Path, text: &[u8]) {
        // systemd, too, takes of a broken drop-in what stands before the break.
        self.merge(path, text);
        self.dropins.push(path.into());
    }

    /// Adds what `text` assigns; says the line at which reading had to stop.
    fn merge(&mut self, path: &Path, text: &[u8]) -> Option<u32> {
        let parsed = parse::parse(text);
        let file: Arc<Path> = path.into();
        self.assigned.extend(parsed.assignments.into_iter().map(|a| Assigned {
            section: a.section,
            key: a.key,
            value: Value { text: a.value, file: file.clone(), line: a.line },
        }));
        parsed.broken
    }

    /// The value that counts for a key that takes one: the last; none where that is empty.
    pub fn get(&self, section: &str, key: &str) -> Option<&Value> {
        self.last_of(|s, k| s == section && k == key)
    }

    /// The values of a key that takes a list, since it was last reset by an empty one.
    pub fn all(&self, section: &str, key: &str) -> Vec<&str> {
        self.all_of(|s, k| s == section && k == key).into_iter().map(Value::as_str).collect()
    }

    /// A switch; `None` where it is not set.
    ///
    /// # Errors
    /// [`UnitError::NotBoolean`].
    pub fn bool(&self, section: &str, key: &str) -> Result<Option<bool>, UnitError> {
        self.get(section, key).map(|value| self.to_bool(key, value)).transpose()
    }

    /// The last value among all keys that `wanted(section, key)` picks.
    pub(super) fn last_of(&self, wanted: impl Fn(&str, &str) -> bool) -> Option<&Value> {
        let last = self.assigned.iter().rev().find(|a| wanted(&a.section, &a.key))?;
        (!last.value.text.is_empty()).then_some(&last.value)
    }

    /// The list among all keys that `wanted(section, key)` picks.
    pub(super) fn all_of(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<&Value> {
        let all: Vec<_> = self.assigned.iter().filter(|a| wanted(&a.section, &a.key)).map(|a| &a.value).collect();
        let reset = all.iter().rposition(|v| v.text.is_empty()).map_or(0, |r| r + 1);
        all[reset..].to_vec()
    }

    pub(super) fn to_bool(&self, key: &str, value: &Value) -> Result<bool, UnitError> {
        parse::boolean(value.as_str()).ok_or_else(|| UnitError::NotBoolean {
            unit: self.name.clone(),
            key: key.into(),
            value: value.text.clone(),
            file: value.file.to_path_buf(),
            line: value.line,
        })
    }

    /// The unit without what kup's generator adds to it: what its own files ask for.
    pub fn without_generated(&self) -> UnitFile {
        let ours = |p: &Path| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            GENERATED.contains(&name.trim_start_matches('~'))
        };
        let mut unit = self.clone();
        unit.dropins.retain(|p| !ours(p));
        unit.assigned.retain(|a| !ours(&a.value.file));
        unit
    }
}
