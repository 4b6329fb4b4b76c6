//! Setting and taking away the mark: a drop-in of the unit in /etc.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::preserve::{Adjust, Fallback, Origin, PreserveSpec, Storage};
use super::{UnitError, UnitFile, UnitName, load};
use crate::paths::Paths;
use crate::sys::atomic;

/// The drop-in's file name.
pub const DROPIN: &str = "50-kup.conf";

/// What else the drop-in says; see [`PreserveSpec`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkOptions {
    /// `KUPHealthCheck=`.
    pub health_check: Option<String>,
    /// `KUPFallback=`.
    pub fallback: Option<Fallback>,
    /// `KUPStorage=`.
    pub storage: Option<Storage>,
    /// `KUPAdjust=`.
    pub adjust: Vec<Adjust>,
}

/// What [`preserve`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preserved {
    /// The drop-in was written.
    Written(PathBuf),
    /// The unit was marked already, and no options were given.
    Already(Origin),
}

/// What [`release`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// The drop-in was removed.
    Removed(PathBuf),
    /// Another file holds the mark; a drop-in that takes it back was written.
    Overridden {
        /// That drop-in.
        dropin: PathBuf,
        /// The mark itself.
        mark: Origin,
    },
    /// The unit was not marked.
    NotMarked,
}

/// Why a unit could not be marked or released.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The unit cannot be loaded.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A file that applies later says the opposite.
    #[error("{file}:{line} decides about {unit} and comes after {DROPIN}; change it there")]
    Overruled {
        /// The unit.
        unit: UnitName,
        /// The file that says the opposite.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: u32,
    },
    /// An option that no unit file can hold.
    #[error("{key}= must be one line that does not end in a backslash")]
    BadOption {
        /// The key that it was meant for.
        key: &'static str,
    },
    /// The drop-in could not be written or removed.
    #[error("cannot change {path}: {cause}")]
    Io {
        /// The drop-in.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Marks `unit`: all instances where it is a template. Takes effect at once for kup, and for systemd (which need not
/// know of it) at its next reload.
///
/// # Errors
/// When the unit does not exist or is masked, or another file overrules the mark; nothing is changed then.
pub fn preserve(paths: &Paths, unit: &UnitName, options: &MarkOptions) -> Result<Preserved, MarkError> {
    let file = load(paths, unit)?;
    // A bad value elsewhere is no reason not to write a good one behind it.
    if let Ok(PreserveSpec { preserve: true, origin: Some(origin), .. }) = PreserveSpec::of(&file)
        && *options == MarkOptions::default()
    {
        return Ok(Preserved::Already(origin));
    }
    let path = dropin(paths, &file.name);
    let before = fs::read(&path).ok();
    write(&path, &render("preserve", unit, true, options)?)?;
    let undo = |e| {
        match &before {
            Some(text) => drop(atomic::write(&path, text, 0o644)),
            None => drop(remove(&path)),
        }
        e
    };
    let decided = decided(paths, unit, true).map_err(&undo)?;
    decided.map_or(Ok(Preserved::Written(path.clone())), |e| Err(undo(e)))
}

/// Takes the mark of `unit` away. Works on a unit that no longer exists, so that nothing of it has to stay.
///
/// # Errors
/// When a file cannot be changed, or a file that applies later marks the unit.
pub fn release(paths: &Paths, unit: &UnitName) -> Result<Released, MarkError> {
    let file = load(paths, unit);
    let names: Vec<UnitName> = match &file {
        Ok(UnitFile { name, aliases, .. }) => std::iter::once(name).chain(aliases).cloned().collect(),
        Err(_) => vec![unit.clone()],
    };
    let mut removed = None;
    for path in names.iter().map(|name| dropin(paths, name)) {
        if remove(&path)? {
            removed.get_or_insert(path);
        }
    }
    let nothing_more = |removed: Option<PathBuf>| removed.map_or(Released::NotMarked, Released::Removed);
    let file = match load(paths, unit) {
        Ok(file) => file,
        Err(UnitError::NotFound { .. } | UnitError::Masked { .. }) if removed.is_some() => {
            return Ok(nothing_more(removed));
        }
        Err(e) => return Err(e.into()),
    };
    let PreserveSpec { preserve: true, origin: Some(mark), .. } = PreserveSpec::of(&file)? else {
        return Ok(nothing_more(removed));
    };
    let path = dropin(paths, &file.name);
    write(&path, &render("release", unit, false, &MarkOptions::default())?)?;
    match decided(paths, unit, false)? {
        Some(e) => {
            remove(&path)?;
            Err(e)
        }
        None => Ok(Released::Overridden { dropin: path, mark }),
    }
}

fn dropin(paths: &Paths, unit: &UnitName) -> PathBuf {
    paths.at("/etc/systemd/system").join(format!("{unit}.d")).join(DROPIN)
}

/// Whether the files now say `want`; the error to report where they do not.
fn decided(paths: &Paths, unit: &UnitName, want: bool) -> Result<Option<MarkError>, MarkError> {
    let spec = PreserveSpec::of(&load(paths, unit)?)?;
    Ok(match spec.origin {
        Some(Origin { file, line }) if spec.preserve != want => {
            Some(MarkError::Overruled { unit: unit.clone(), file, line })
        }
        _ => None,
    })
}

/// The text of the drop-in, in which the administrator is told that `verb` wrote it.
///
/// # Errors
/// [`MarkError::BadOption`].
pub fn render(verb: &str, unit: &UnitName, preserve: bool, options: &MarkOptions) -> Result<String, MarkError> {
    let mut text = format!("# Written by 'kup {verb} {unit}'.\n[X-KUP]\n");
    text += if preserve { "KUPPreserve=yes\n" } else { "KUPPreserve=no\n" };
    if let Some(command) = &options.health_check {
        let one_line = !command.contains(|c: char| c.is_control()) && !command.ends_with('\\');
        if !one_line {
            return Err(MarkError::BadOption { key: "KUPHealthCheck" });
        }
        text += &format!("KUPHealthCheck={command}\n");
    }
    if let Some(fallback) = options.fallback {
        text += &format!("KUPFallback={}\n", fallback.as_str());
    }
    if let Some(storage) = options.storage {
        text += &format!("KUPStorage={}\n", storage.as_str());
    }
    if !options.adjust.is_empty() {
        let words: Vec<_> = options.adjust.iter().map(|a| a.as_str()).collect();
        text += &format!("KUPAdjust={}\n", words.join(" "));
    }
    Ok(text)
}

fn write(path: &std::path::Path, text: &str) -> Result<(), MarkError> {
    atomic::write(path, text.as_bytes(), 0o644).map_err(|cause| MarkError::Io { path: path.into(), cause })
}

/// Removes a drop-in, and its directory where that is empty then; whether there was one.
fn remove(path: &std::path::Path) -> Result<bool, MarkError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed.map_err(|cause| MarkError::Io { path: path.into(), cause })?,
    }
    if let Some(dir) = path.parent() {
        // Fails where an administrator's drop-ins are left in it, as it should.
        let _ = fs::remove_dir(dir);
    }
    Ok(true)
}
