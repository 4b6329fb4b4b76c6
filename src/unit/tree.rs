//! Reading below a root: symbolic links that begin with `/` begin at that root.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::paths::Paths;

/// More links than this in one path are a loop (as in the kernel, path_resolution(7)).
const MAX_LINKS: usize = 40;
/// No unit file is longer (systemd refuses a line of that length).
const MAX_BYTES: u64 = 1 << 20;

/// Where the absolute `path` leads, as seen from the root, with every link in it followed. What does not exist is kept
/// as it stands.
///
/// # Errors
/// A loop of links.
pub fn chase(paths: &Paths, path: &Path) -> io::Result<PathBuf> {
    let mut left: VecDeque<OsString> = parts(path).collect();
    let (mut done, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let Ok(target) = fs::read_link(paths.at(&next)) else {
            done = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::other("too many symbolic links"));
        }
        if target.is_absolute() {
            done = "/".into();
        }
        for part in parts(&target).rev() {
            left.push_front(part);
        }
    }
    Ok(done)
}

/// Where the link at `path` points, with every link but a last one followed; `path` must be a link.
///
/// # Errors
/// What the system says.
pub fn link_target(paths: &Paths, path: &Path) -> io::Result<PathBuf> {
    let target = fs::read_link(paths.at(path))?;
    let target = path.parent().unwrap_or(Path::new("/")).join(target);
    Ok(match (target.parent(), target.file_name()) {
        (Some(dir), Some(name)) => chase(paths, dir)?.join(name),
        _ => chase(paths, &target)?,
    })
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|c| match c {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// The names in a directory and whether each is a symbolic link; none where there is no such directory.
///
/// # Errors
/// What the system says, but for the directory not being there.
pub fn list(paths: &Paths, dir: &Path) -> io::Result<Vec<(String, bool)>> {
    let entries = match fs::read_dir(paths.at(chase(paths, dir)?)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A name that is not UTF-8 is no unit's name.
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, entry.file_type()?.is_symlink()));
        }
    }
    names.sort();
    Ok(names)
}

/// The bytes of a regular file; `None` where there is none or the path leads to something else (such as /dev/null).
///
/// # Errors
/// What the system says, and a file that is far too long.
pub fn read(paths: &Paths, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let path = paths.at(chase(paths, path)?);
    // Looked at before it is opened: opening a FIFO would wait.
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => {}
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Err(e),
        _ => return Ok(None),
    }
    let mut text = Vec::new();
    File::open(&path)?.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    Ok(Some(text))
}
