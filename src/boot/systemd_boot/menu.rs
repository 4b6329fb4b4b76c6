//! The menu as systemd-boot would show it at the next boot, and its default.
//!
//! What is not in files (EFI shells, Windows, the firmware's setup) is left out: it is never chosen by itself, only by name.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::entry::{Entry, Type1, lines, split_name};
use super::{glob, uki, version};

/// Names the entry that was booted last.
const SAVED: &str = "@saved";

/// All entries, the topmost first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Menu(pub Vec<Entry>);

/// What chooses the default, from EFI variables and loader.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// LoaderEntryPreferred, where the boot loader knows it.
    pub preferred: Option<String>,
    /// LoaderEntryDefault.
    pub variable: Option<String>,
    /// LoaderEntryLastBooted.
    pub saved: Option<String>,
    /// loader.conf.
    pub config: Config,
}

/// The part of loader.conf(5) that says what is booted without anybody choosing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `default`, a pattern.
    pub default: Option<String>,
    /// `preferred`, a pattern that goes before all defaults; since systemd 259.
    pub preferred: Option<String>,
    /// `timeout`.
    pub timeout: Option<String>,
}

impl Config {
    /// Reads loader.conf. The last of several lines counts.
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        for (key, value) in lines(text) {
            match key {
                "default" => config.default = Some(value.into()),
                "preferred" => config.preferred = Some(value.into()),
                "timeout" => config.timeout = Some(value.into()),
                _ => {}
            }
        }
        config
    }
}

impl Menu {
    /// Reads the entries on `partitions`, the roots of ESP and XBOOTLDR.
    ///
    /// # Errors
    /// When a directory or entry cannot be read.
    pub fn read(partitions: &[PathBuf]) -> Result<Self> {
        let mut entries = Vec::new();
        for root in partitions {
            for (file, name) in files(&root.join("EFI/Linux"))? {
                entries.extend(unified(&file, &name)?);
            }
            for (file, name) in files(&root.join("loader/entries"))? {
                entries.extend(type1(root, &file, &name)?);
            }
        }
        entries.sort_by(order);
        Ok(Self(entries))
    }

    /// The entry that boots by default, as config_select_default_entry() in systemd's src/boot/boot.c chooses it; `None`
    /// where there is none or it is none of these. Tries that are left only count for the order.
    pub fn boots(&self, choice: &Choice) -> Option<&Entry> {
        let good = |e: &&Entry| e.tries.is_none_or(|t| t.left > 0);
        let preferred = [&choice.preferred, &choice.config.preferred];
        let preferred = preferred.into_iter().flatten().find_map(|p| self.0.iter().filter(good).find(|e| is(p, e)));
        if preferred.is_some() {
            return preferred;
        }
        for pattern in [&choice.variable, &choice.config.default].into_iter().flatten() {
            let pattern = if pattern == SAVED { choice.saved.as_deref() } else { Some(pattern.as_str()) };
            let Some(pattern) = pattern else { continue };
            if let Some(found) = self.0.iter().find(|e| is(pattern, e)) {
                return Some(found);
            }
            if pattern.starts_with("auto-") {
                return None;
            }
        }
        self.0.first()
    }

    /// The entry of kernel `release`: the one that is `selected` if that boots it, else the topmost. Only this
    /// installation's, and only one that an id names without doubt.
    pub fn entry_of(&self, release: &str, machine_id: &str, selected: Option<&str>) -> Option<&Entry> {
        let ours = |e: &&Entry| e.machine_id.as_ref().is_none_or(|id| id == machine_id);
        let boots = |e: &&Entry| e.release.as_deref() == Some(release) && e.missing.is_empty() && glob::is_plain(&e.id);
        let fit: Vec<&Entry> = self.0.iter().filter(ours).filter(boots).collect();
        let selected = selected.and_then(|s| fit.iter().find(|e| s.eq_ignore_ascii_case(&e.id)));
        selected.or(fit.first()).copied()
    }
}

/// Ids are compared in lower case, as FAT does.
fn is(pattern: &str, entry: &Entry) -> bool {
    glob::matches(&pattern.to_lowercase(), &entry.id.to_lowercase())
}

/// boot_entry_compare() in systemd's src/boot/boot.c.
fn order(a: &Entry, b: &Entry) -> Ordering {
    let bad = |e: &Entry| e.tries.is_some_and(|t| t.left == 0);
    let by_key = || match (&a.sort_key, &b.sort_key) {
        (Some(x), Some(y)) => {
            let versions = || version::compare(text(&b.version), text(&a.version));
            x.cmp(y).then_with(|| a.machine_id.cmp(&b.machine_id)).then_with(versions)
        }
        (x, y) => x.is_none().cmp(&y.is_none()),
    };
    let by_tries = || match (a.tries, b.tries) {
        (Some(x), Some(y)) => y.left.cmp(&x.left).then(x.done.cmp(&y.done)),
        _ => Ordering::Equal,
    };
    let by_id = || version::compare(&b.id.to_lowercase(), &a.id.to_lowercase());
    bad(a).cmp(&bad(b)).then_with(by_key).then_with(by_id).then_with(by_tries)
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Files of a directory and their names, in the order of the names; none where it is not there.
fn files(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let context = || format!("cannot list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(context)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(context)?;
        if let (true, Ok(name)) = (entry.path().is_file(), entry.file_name().into_string()) {
            found.push((entry.path(), name));
        }
    }
    found.sort();
    Ok(found)
}

fn type1(root: &Path, file: &Path, name: &str) -> Result<Option<Entry>> {
    let Some((id, tries)) = split_name(name, ".conf") else { return Ok(None) };
    let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let fields = Type1::parse(&String::from_utf8_lossy(&content));
    let image = fields.image.as_ref().and_then(|path| below(root, path));
    if !fields.fits() || image.is_none_or(|path| !path.is_file()) {
        return Ok(None);
    }
    let missing = |path: &String| {
        let place = below(root, path).unwrap_or_else(|| path.into());
        (!place.is_file()).then_some(place)
    };
    Ok(Some(Entry {
        id,
        file: file.into(),
        tries,
        release: fields.release(),
        missing: fields.initrds.iter().filter_map(missing).collect(),
        sort_key: fields.sort_key,
        machine_id: fields.machine_id,
        version: fields.version,
        unified: false,
    }))
}

fn unified(file: &Path, name: &str) -> Result<Option<Entry>> {
    let Some((id, tries)) = split_name(name, ".efi") else { return Ok(None) };
    let mut opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    let Some(image) = uki::read(&mut opened) else { return Ok(None) };
    let uki::Image { release, version, sort_key } = image;
    Ok(Some(Entry { id, file: file.into(), tries, sort_key, version, release, unified: true, ..Entry::default() }))
}

/// A path of an entry below its partition's root; backslashes are allowed, leaving the partition is not.
fn below(root: &Path, path: &str) -> Option<PathBuf> {
    let path = path.replace('\\', "/");
    let relative = Path::new(path.trim_start_matches('/'));
    relative.components().all(|c| matches!(c, Component::Normal(_))).then(|| root.join(relative))
}

#[cfg(test)]
#[path = "menu_tests.rs"]
mod tests;
