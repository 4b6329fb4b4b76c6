//! Directories that nobody but root can change anything in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Fails unless `dir`, and every directory above it up to `top`, is a directory of ours that neither its group nor others
/// may write to. `dir` is below `top` or the same; `top` alone may be a symbolic link, its parent being the system's.
///
/// # Errors
/// Names the directory and what is wrong with it.
pub fn only_ours(dir: &Path, top: &Path) -> io::Result<()> {
    for dir in dir.ancestors().take_while(|dir| dir.starts_with(top)) {
        let about = |what: &str| io::Error::other(format!("{} {what}", dir.display()));
        let meta = if dir == top { fs::metadata(dir) } else { fs::symlink_metadata(dir) };
        let meta = meta.map_err(|e| about(&format!("cannot be looked at: {e}")))?;
        if !meta.is_dir() {
            return Err(about("is not a directory"));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(about(&format!("belongs to user {}; 'chown root:' it", meta.uid())));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(about(&format!("has mode {:o}; 'chmod go-w' it", meta.mode() & 0o7777)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn others_must_not_be_able_to_change_anything() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&top.path().join("a"), 0o755);
        chmod(&dir, 0o700);
        only_ours(&dir, top.path()).unwrap();
        chmod(&top.path().join("a"), 0o775);
        let why = only_ours(&dir, top.path()).unwrap_err().to_string();
        assert!(why.contains("/a has mode 775"), "{why}");
        only_ours(&dir, &dir).unwrap();
        symlink(&dir, top.path().join("link")).unwrap();
        let why = only_ours(&top.path().join("link"), top.path()).unwrap_err().to_string();
        assert!(why.contains("not a directory"), "{why}");
        assert!(only_ours(&dir.join("missing"), top.path()).is_err());
    }

    #[test]
    fn nobody_else_may_own_it() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: needs root to give a directory away");
        }
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        chown(top.path().join("a"), Some(12345), None).unwrap();
        let why = only_ours(&dir, top.path()).unwrap_err().to_string();
        assert!(why.contains("/a belongs to user 12345; 'chown root:' it"), "{why}");
        only_ours(&dir, &dir).unwrap();
    }
}
