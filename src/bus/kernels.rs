//! The staged kernel, as the package hooks move it.

use std::fs;

use super::Error;
use crate::kernel::{Staged, check_release, choose_target, discover, running};
use crate::paths::Paths;

/// Checks that a string from outside has the form of a release, so that it can go into paths.
///
/// # Errors
/// [`Error::InvalidArgument`].
pub fn check_form(release: &str) -> Result<(), Error> {
    check_release(release).map_err(|e| Error::InvalidArgument(e.to_string()))
}

/// Remembers `release` as the next target, unless it is that already. Says whether something changed.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::NoTarget`] when it is not installed, [`Error::Failed`].
pub fn stage(paths: &Paths, release: &str) -> Result<bool, Error> {
    check_form(release)?;
    if !discover(paths)?.iter().any(|k| k.release == release) {
        let text = format!("kernel {release} is not installed: its image in /boot or its modules are missing");
        return Err(Error::NoTarget(text));
    }
    // A damaged file is replaced: it says nothing worth keeping.
    if Staged::read(paths).is_ok_and(|s| s.is_some_and(|s| s.release == release)) {
        return Ok(false);
    }
    Staged::now(release)?.write(paths)?;
    Ok(true)
}

/// Forgets `release`, where it is the staged one. Says whether something changed.
///
/// # Errors
/// [`Error::InvalidArgument`] and [`Error::Failed`].
pub fn unstage(paths: &Paths, release: &str) -> Result<bool, Error> {
    check_form(release)?;
    if Staged::read(paths)?.is_none_or(|s| s.release != release) {
        return Ok(false);
    }
    Staged::remove(paths)?;
    Ok(true)
}

/// The release that an update goes to: the one `asked` for, else the staged one, else the newest.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::NoTarget`], [`Error::Failed`].
pub fn target(paths: &Paths, asked: Option<&str>) -> Result<String, Error> {
    asked.map_or(Ok(()), check_form)?;
    let staged = Staged::read(paths)?.map(|s| s.release);
    let chosen = choose_target(&discover(paths)?, staged.as_deref(), asked, &running(paths)?);
    chosen.map(|k| k.release).map_err(|e| Error::NoTarget(e.to_string()))
}

/// Stages the kernels whose hook found no kupd to talk to: the hook then leaves an empty file of the release's name.
/// The newest stamp is staged last and so wins. What cannot be staged is logged and dropped.
pub fn take_pending(paths: &Paths) {
    let Ok(entries) = fs::read_dir(paths.pending_hooks()) else { return };
    let mut stamps: Vec<_> = entries.flatten().map(|e| (e.metadata().and_then(|m| m.modified()).ok(), e)).collect();
    stamps.sort_by_key(|(time, _)| *time);
    for (_, entry) in stamps {
        let release = entry.file_name().to_string_lossy().into_owned();
        match stage(paths, &release) {
            Ok(_) => tracing::info!("staged kernel {release}, which was installed while kupd did not answer"),
            Err(e) => tracing::warn!("the hook's stamp {} is dropped: {}", entry.path().display(), e.message()),
        }
        if let Err(e) = fs::remove_file(entry.path()) {
            tracing::warn!("cannot remove {}: {e}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(kernels: &[&str]) -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        fs::create_dir_all(paths.at("/boot")).unwrap();
        for kernel in kernels {
            fs::write(paths.at(format!("/boot/vmlinuz-{kernel}")), "image").unwrap();
            fs::create_dir_all(paths.at(format!("/lib/modules/{kernel}"))).unwrap();
        }
        (dir, paths)
    }

    #[test]
    fn staging_is_idempotent() {
        let (_dir, paths) = tree(&["6.12.2"]);
        assert_eq!(stage(&paths, "6.12.2"), Ok(true));
        let first = Staged::read(&paths).unwrap().unwrap();
        assert_eq!(stage(&paths, "6.12.2"), Ok(false));
        assert_eq!(Staged::read(&paths).unwrap().unwrap(), first);
        assert_eq!(unstage(&paths, "6.12.1"), Ok(false), "another kernel was removed");
        assert_eq!(unstage(&paths, "6.12.2"), Ok(true));
        assert_eq!(unstage(&paths, "6.12.2"), Ok(false));
    }

    #[test]
    fn only_installed_kernels_are_staged() {
        let (_dir, paths) = tree(&["6.12.2"]);
        assert!(matches!(stage(&paths, "6.12.3"), Err(Error::NoTarget(_))));
        for bad in ["", "../x", "6.12 quiet", "6.12\n"] {
            assert!(matches!(stage(&paths, bad), Err(Error::InvalidArgument(_))), "{bad:?}");
        }
        fs::create_dir_all(paths.staged().parent().unwrap()).unwrap();
        fs::write(paths.staged(), "{").unwrap();
        assert_eq!(stage(&paths, "6.12.2"), Ok(true), "a damaged file is replaced");
    }

    #[test]
    fn pending_stamps_are_staged_once() {
        let (_dir, paths) = tree(&["6.12.2"]);
        fs::create_dir_all(paths.pending_hooks()).unwrap();
        fs::write(paths.pending_hooks().join("6.12.2"), "").unwrap();
        fs::write(paths.pending_hooks().join("6.12.3"), "").unwrap();
        take_pending(&paths);
        assert_eq!(Staged::read(&paths).unwrap().unwrap().release, "6.12.2", "6.12.3 is not installed");
        assert_eq!(fs::read_dir(paths.pending_hooks()).unwrap().count(), 0);
    }
}
