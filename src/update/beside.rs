//! Files beside the images that the next boot acts on before any image is verified: what is locked, and how links are. The
//! record has a digest of each, and what does not fit it is not acted on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Serialize, de::DeserializeOwned};

use super::Record;
use super::record::digest;
use crate::paths::Paths;
use crate::sys::trust;

/// Writes `content` as the file `name` into `images`. Its digest is in `record`, which the caller saves behind it.
///
/// # Errors
/// When it cannot be written; names it.
pub(super) fn write(record: &mut Record, images: &Path, name: &str, content: &impl Serialize) -> Result<()> {
    let (path, text) = (images.join(name), serde_json::to_vec(content)?);
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    record.beside.insert(name.into(), digest(&text));
    Ok(())
}

/// Reads the file `name` beside the images of `record`.
///
/// # Errors
/// When it is not as it was written, or lies where others can change it; names it.
pub fn read<T: DeserializeOwned>(paths: &Paths, record: &Record, name: &str) -> Result<T> {
    let images = paths.images(record.id.as_str());
    let path = images.join(name);
    trust::only_ours(&images, &paths.state_dir())
        .with_context(|| format!("{} is not to be trusted", path.display()))?;
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let fits = record.beside.get(name).is_some_and(|known| *known == digest(&text));
    ensure!(fits, "{} is damaged: it is not what the record says", path.display());
    serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::update::TargetKernel;

    const NAME: &str = "ports.json";

    #[test]
    fn only_what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let images = paths.images("5a");
        fs::create_dir_all(&images).unwrap();
        let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
        let mut record = Record::new("5a".parse().unwrap(), "1".into(), "source".into(), target);
        let said = |record: &Record| {
            read::<Vec<u16>>(&paths, record, NAME).map_or_else(|e| format!("{e:#}"), |ports| format!("{ports:?}"))
        };

        write(&mut record, &images, NAME, &[6379, 80]).unwrap();
        record.save(&paths.record()).unwrap();
        record = Record::load(&paths.record()).unwrap().unwrap();
        assert_eq!(said(&record), "[6379, 80]");

        fs::set_permissions(&images, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(said(&record).contains("ports.json is not to be trusted"), "{}", said(&record));
        fs::set_permissions(&images, fs::Permissions::from_mode(0o700)).unwrap();

        // One bit, and still a list of ports.
        fs::write(images.join(NAME), "[6378,80]").unwrap();
        assert!(said(&record).contains("ports.json is damaged"), "{}", said(&record));
        fs::write(images.join(NAME), "[6379,80]").unwrap();
        record.beside.clear();
        assert!(said(&record).contains("ports.json is damaged"), "of a file that nobody wrote down");
        fs::remove_file(images.join(NAME)).unwrap();
        assert!(said(&record).contains("cannot read"), "{}", said(&record));
    }
}
