//! All service units' names: which file a name stands for, which other names that file has, where drop-ins may lie.
//!
//! Follows systemd.unit(5), "UNIT FILE LOAD PATH" and the paragraphs on aliases, templates and drop-ins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{UnitError, UnitName, tree};
use crate::paths::Paths;

/// systemd's search path in system mode, highest priority first.
const SEARCH_PATH: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// More names than these in a chain of aliases are a circle (as in systemd).
const MAX_ALIASES: usize = 8;

/// What a name in the search path stands for. Paths are as seen from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// A file, in the search path or linked from outside.
    File(PathBuf),
    /// A link to another unit.
    Alias(String),
}

/// The search path, read once.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) paths: &'a Paths,
    search: Vec<PathBuf>,
    entries: BTreeMap<String, Entry>,
    /// Every name that leads to a file.
    names: BTreeMap<PathBuf, BTreeSet<String>>,
    /// `NAME.d` -> the directories of that name, highest priority first, each with its place in the search path.
    dropin_dirs: BTreeMap<String, Vec<(usize, PathBuf)>>,
    /// Names that are known from `.wants/` and the like, or because they run.
    mentioned: BTreeSet<String>,
}

/// Where a name leads.
#[derive(Debug)]
pub(super) struct Found {
    /// The unit's main name.
    pub(super) id: String,
    /// The other names.
    pub(super) aliases: BTreeSet<String>,
    /// Its file, as seen from the root.
    pub(super) fragment: PathBuf,
}

impl<'a> Index<'a> {
    /// Reads the directories (not the files) of the search path.
    pub(super) fn read(paths: &'a Paths) -> Result<Self, UnitError> {
        let mut index = Self {
            paths,
            search: search_path(paths),
            entries: BTreeMap::new(),
            names: BTreeMap::new(),
            dropin_dirs: BTreeMap::new(),
            mentioned: BTreeSet::new(),
        };
        for place in 0..index.search.len() {
            index.read_dir(place)?;
        }
        for name in index.entries.keys() {
            let Ok(Some(fragment)) = index.resolve(name) else { continue };
            // `foo@1.service -> foo@.service` gives the template no other name.
            if !(is_template(&file_name(fragment)) && is_instance(name)) {
                index.names.entry(fragment.into()).or_default().insert(name.clone());
            }
        }
        // systemd keeps a link here for every unit that runs: the only trace of an instance started by hand.
        let running = Path::new("/run/systemd/units");
        for (name, _) in list(paths, running)? {
            if let Some(name) = name.strip_prefix("invocation:").filter(|n| is_service(n)) {
                index.mentioned.insert(name.into());
            }
        }
        Ok(index)
    }

    fn read_dir(&mut self, place: usize) -> Result<(), UnitError> {
        let dir = self.search[place].clone();
        for (name, is_link) in list(self.paths, &dir)? {
            let path = dir.join(&name);
            if name.ends_with(".service.d") || name == "service.d" {
                self.dropin_dirs.entry(name).or_default().push((place, path));
            } else if [".wants", ".requires", ".upholds"].iter().any(|s| name.ends_with(s)) {
                let linked = list(self.paths, &path)?.into_iter().map(|(n, _)| n).filter(|n| is_service(n));
                self.mentioned.extend(linked);
            } else if is_service(&name)
                && !self.entries.contains_key(&name)
                && let Some(entry) = self.entry(&name, path, is_link)
            {
                self.entries.insert(name, entry);
            }
        }
        Ok(())
    }

    /// `None` for links that systemd does not take for a unit.
    fn entry(&self, name: &str, path: PathBuf, is_link: bool) -> Option<Entry> {
        if !is_link {
            return Some(Entry::File(path));
        }
        let target = tree::link_target(self.paths, &path).ok()?;
        let inside = target.parent().is_some_and(|dir| self.search.iter().any(|s| s == dir));
        if !inside {
            return Some(Entry::File(target));
        }
        let other = file_name(&target);
        let kinds_match = if is_instance(name) {
            is_template(&other) || (is_instance(&other) && instance(name) == instance(&other))
        } else {
            is_template(name) == is_template(&other) && !is_instance(&other)
        };
        (is_service(&other) && other != name && kinds_match).then_some(Entry::Alias(other))
    }

    /// The file that `name` stands for. The template of an instance counts only behind an alias.
    fn resolve(&self, name: &str) -> Result<Option<&Path>, ()> {
        let mut name = name.to_string();
        for hop in 0..MAX_ALIASES {
            let entry = match self.entries.get(&name) {
                None if hop > 0 => template(&name).and_then(|t| self.entries.get(&t)),
                entry => entry,
            };
            match entry {
                None => return Ok(None),
                Some(Entry::File(path)) => return Ok(Some(path)),
                Some(Entry::Alias(other)) => name = other.clone(),
            }
        }
        Err(())
    }

    /// The unit that `unit` names.
    pub(super) fn find(&self, unit: &UnitName) -> Result<Found, UnitError> {
        let name = unit.as_str();
        let circle = |()| UnitError::AliasLoop { unit: unit.clone() };
        let fragment = match (self.resolve(name).map_err(circle)?, template(name)) {
            (None, Some(template)) => self.resolve(&template).map_err(circle)?,
            (fragment, _) => fragment,
        };
        let Some(fragment) = fragment else { return Err(UnitError::NotFound { unit: unit.clone() }) };
        let instantiate = |n: &str| match instance(name) {
            Some(i) if is_template(n) => n.replacen('@', &format!("@{i}"), 1),
            _ => n.to_string(),
        };
        // An instance with a file of its own is another unit.
        let is_other = |n: &str| self.resolve(n).ok().flatten().is_some_and(|f| f != fragment);
        let mut aliases = BTreeSet::from([name.to_string()]);
        let names = self.names.get(fragment).into_iter().flatten().map(|n| instantiate(n));
        aliases.extend(names.filter(|n| !is_other(n) && is_instance(n) == is_instance(name)));
        // A file that is linked from outside the search path may be called anything; its link is the unit's name then.
        let inside = fragment.parent().is_some_and(|d| self.search.iter().any(|s| s == d));
        let main = Some(instantiate(&file_name(fragment))).filter(|_| inside);
        aliases.extend(main.clone());
        let id = main.filter(|m| !is_other(m)).unwrap_or_else(|| name.to_string());
        aliases.remove(&id);
        Ok(Found { id, aliases, fragment: fragment.into() })
    }

    /// The drop-ins of a unit in the order in which they apply. Masked ones are left out.
    pub(super) fn dropins(&self, id: &str, aliases: &BTreeSet<String>) -> Result<Vec<PathBuf>, UnitError> {
        let mut dirs: Vec<&Path> = Vec::new();
        for name in std::iter::once(id).chain(aliases.iter().map(String::as_str)) {
            // Within one directory of the search path the more specific name goes first; across them, the path's order.
            let mut found: Vec<(usize, usize, &Path)> = Vec::new();
            for (rank, candidate) in dropin_names(name).iter().enumerate() {
                let here = self.dropin_dirs.get(&format!("{candidate}.d")).into_iter().flatten();
                found.extend(here.map(|(place, dir)| (*place, rank, dir.as_path())));
            }
            found.sort();
            dirs.extend(found.into_iter().map(|(_, _, dir)| dir));
        }
        dirs.extend(self.dropin_dirs.get("service.d").into_iter().flatten().map(|(_, dir)| dir.as_path()));
        let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
        for dir in dirs {
            for (file, _) in list(self.paths, dir)? {
                if file.ends_with(".conf") && !file.starts_with('.') {
                    files.entry(file).or_insert_with_key(|file| dir.join(file));
                }
            }
        }
        Ok(files.into_values().filter(|f| !self.is_null(f)).collect())
    }

    /// Whether a path leads to /dev/null.
    pub(super) fn is_null(&self, path: &Path) -> bool {
        tree::chase(self.paths, path).is_ok_and(|p| p == Path::new("/dev/null"))
    }

    /// Every service that files or running units tell of: no templates, aliases as they stand.
    pub(super) fn units(&self) -> BTreeSet<UnitName> {
        let from_dirs = self.dropin_dirs.keys().filter_map(|d| d.strip_suffix(".d")).filter(|n| is_service(n));
        let names = self.entries.keys().map(String::as_str).chain(self.mentioned.iter().map(String::as_str));
        let names = names.chain(from_dirs.filter(|n| !n.ends_with("-.service") && !n.contains("-@")));
        names.filter(|n| !is_template(n)).filter_map(|n| n.parse().ok()).collect()
    }

    /// Every template.
    pub(super) fn templates(&self) -> BTreeSet<UnitName> {
        self.entries.keys().filter(|n| is_template(n)).filter_map(|n| n.parse().ok()).collect()
    }

    /// Every drop-in directory.
    pub(super) fn dropin_dirs(&self) -> impl Iterator<Item = &Path> {
        self.dropin_dirs.values().flatten().map(|(_, dir)| dir.as_path())
    }

    /// Every file that is a service's fragment.
    pub(super) fn fragments(&self) -> impl Iterator<Item = &Path> {
        self.entries.values().filter_map(|e| if let Entry::File(f) = e { Some(f.as_path()) } else { None })
    }
}

/// The search path without directories that are another one by a link (/lib on a merged /usr).
fn search_path(paths: &Paths) -> Vec<PathBuf> {
    let mut search: Vec<PathBuf> = Vec::new();
    for dir in SEARCH_PATH {
        let real = tree::chase(paths, Path::new(dir)).unwrap_or_else(|_| dir.into());
        if !search.contains(&real) {
            search.push(real);
        }
    }
    search
}

fn list(paths: &Paths, dir: &Path) -> Result<Vec<(String, bool)>, UnitError> {
    tree::list(paths, dir).map_err(|cause| UnitError::Io { path: paths.at(dir), cause })
}

/// The names whose `.d` directories hold drop-ins for `name`, most specific first: itself, its template, and each
/// truncated after a dash (`foo-bar-.service`, `foo-.service`).
fn dropin_names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_string()];
    if let Some(template) = template(name) {
        names.extend(dropin_names(&template));
    }
    let stem = name.strip_suffix(".service").unwrap_or(name);
    let (prefix, instance) = stem.split_once('@').map_or((stem, None), |(p, i)| (p, Some(i)));
    // A name that ends in a dash was truncated before: the next one is before that dash.
    let shorter = prefix.strip_suffix('-').unwrap_or(prefix);
    if let Some(dash) = shorter.rfind('-').filter(|d| *d > 0) {
        let instance = instance.filter(|i| !i.is_empty()).map_or(String::new(), |i| format!("@{i}"));
        names.extend(dropin_names(&format!("{}{instance}.service", &shorter[..=dash])));
    }
    names
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_service(name: &str) -> bool {
    name.ends_with(".service") && name.parse::<UnitName>().is_ok()
}

fn instance(name: &str) -> Option<&str> {
    let (_, instance) = name.strip_suffix(".service")?.split_once('@')?;
    (!instance.is_empty()).then_some(instance)
}

fn is_instance(name: &str) -> bool {
    instance(name).is_some()
}

fn is_template(name: &str) -> bool {
    name.ends_with("@.service")
}

fn template(name: &str) -> Option<String> {
    is_instance(name).then(|| format!("{}@.service", name.split_once('@').map_or("", |(p, _)| p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropin_directories_of_a_name() {
        assert_eq!(dropin_names("foo.service"), ["foo.service"]);
        assert_eq!(
            dropin_names("foo-bar-baz.service"),
            ["foo-bar-baz.service", "foo-bar-.service", "foo-.service"],
            "the example of systemd.unit(5)"
        );
        assert_eq!(
            dropin_names("a-b@x.service"),
            ["a-b@x.service", "a-b@.service", "a-.service", "a-@x.service", "a-@.service"]
        );
        assert_eq!(dropin_names("-a.service"), ["-a.service"]);
    }
}
