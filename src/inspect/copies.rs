//! Names of the copies that stand for deleted files after an update. The copy is deleted in its turn when the update
//! ends, and then /proc shows the copy's name: it holds the first name, so that this is still known after many updates.

use std::path::{Component, Path, PathBuf};

use crate::paths::Paths;

/// Directory of the copies in a unit's images.
const DIR: &str = "deleted";
/// A longer name would make the copy's name longer than PATH_MAX (4096 bytes).
const LONGEST: usize = 3500;

/// Where the copy of the `number`th deleted file, once called `path`, goes; relative to the unit's images.
pub fn place(number: usize, path: &Path) -> PathBuf {
    let copy = Path::new(DIR).join(number.to_string());
    // The record is JSON, which holds no other names.
    let fits = path.to_str().is_some_and(|name| name.len() <= LONGEST);
    match path.strip_prefix("/") {
        Ok(name)
            if fits && name.components().all(|c| matches!(c, Component::Normal(_))) && name.file_name().is_some() =>
        {
            copy.join(name)
        }
        _ => copy.join("file"),
    }
}

/// The first name of the file that `path` is a copy of; `path` where it is none.
pub(super) fn original(path: &Path) -> PathBuf {
    let name = || {
        let mut parts = path.strip_prefix(Paths::host().images_root()).ok()?.components();
        let (_update, _unit, dir, _number) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (dir.as_os_str() == DIR).then(|| Path::new("/").join(parts.as_path()))
    };
    name().unwrap_or_else(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_is_kept() {
        let images = Path::new("/var/lib/kup/images/5a/a.service");
        let libc = Path::new("/usr/lib/libc.so.6");
        assert_eq!(place(3, libc), Path::new("deleted/3/usr/lib/libc.so.6"));
        assert_eq!(original(&images.join(place(3, libc))), libc);
        assert_eq!(original(libc), libc);
        assert_eq!(original(&images.join("pages-1.img")), images.join("pages-1.img"));
    }

    #[test]
    fn no_name_leaves_the_directory() {
        for odd in ["", "/", "/a/../b", "relative"] {
            assert_eq!(place(0, Path::new(odd)), Path::new("deleted/0/file"), "{odd:?}");
        }
        assert_eq!(place(0, &Path::new("/").join("x/".repeat(2000))), Path::new("deleted/0/file"));
    }
}
