//! What an image consists of, with a digest of each file: memory that a disk has changed is not restored.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use xxhash_rust::xxh3::Xxh3;

use crate::criu::plain;

/// Name of the manifest in a unit's image directory.
const NAME: &str = "manifest.json";
/// CRIU's logs and statistics are written behind the image's completion, and decide nothing. Memory has checksums of its own,
/// which are in the list with their index.
const LEFT_OUT: [&str; 3] = [".log", "stats-dump", plain::SLOTS];

/// Size and digest of each file, by its path below the image directory.
type Files = BTreeMap<String, (u64, String)>;

/// Lists `images` as it is now, writes the list beside the image and returns its digest.
///
/// # Errors
/// When a file cannot be read or the list not be written.
pub fn write(images: &Path) -> Result<String> {
    let mut files = Files::new();
    collect(images, Path::new(""), &mut files)?;
    let text = serde_json::to_vec(&files)?;
    fs::write(images.join(NAME), &text).with_context(|| format!("cannot write {}", images.join(NAME).display()))?;
    Ok(hex(&mut Xxh3::new(), &mut text.as_slice())?)
}

/// Fails unless everything in `images` is as it was when its manifest, which has `digest`, was written.
///
/// # Errors
/// Names the file that is damaged or missing.
pub fn verify(images: &Path, digest: &str) -> Result<()> {
    let text = fs::read(images.join(NAME)).context("its image is damaged: it has no manifest")?;
    ensure!(hex(&mut Xxh3::new(), &mut text.as_slice())? == digest, "its image is damaged: the manifest has changed");
    let files: Files = serde_json::from_slice(&text).context("its image is damaged: the manifest cannot be read")?;
    for (name, (size, digest)) in files {
        match describe(&images.join(&name)) {
            Ok(is) if is == (size, digest) => {}
            Ok(_) => bail!("its image is damaged: {name} has changed"),
            Err(e) => bail!("its image is damaged: {name}: {e}"),
        }
    }
    Ok(())
}

/// Removes the manifest from images that are no longer what it lists.
///
/// # Errors
/// When it stays.
pub fn remove(images: &Path) -> Result<()> {
    let path = images.join(NAME);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
}

fn collect(images: &Path, below: &Path, files: &mut Files) -> Result<()> {
    let dir = images.join(below);
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let name: PathBuf = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(images, &name, files)?;
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        if name != NAME && !LEFT_OUT.iter().any(|end| name.ends_with(end)) {
            let file = describe(&entry.path()).with_context(|| format!("cannot read {name} of the image"))?;
            files.insert(name, file);
        }
    }
    Ok(())
}

fn describe(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let digest = hex(&mut hash, &mut file)?;
    Ok((file.metadata()?.len(), digest))
}

/// 128 bits of XXH3: against faulty storage, not against people; those cannot write here.
fn hex(hash: &mut Xxh3, from: &mut impl Read) -> io::Result<String> {
    let mut buffer = [0; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hash.digest128())),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("copies")).unwrap();
        for (name, text) in [("pages-1.img", "memory"), ("copies/0", "library"), ("dump.log", "half a"), ("empty", "")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn what_did_not_change_passes() {
        let dir = image();
        let digest = write(dir.path()).unwrap();
        verify(dir.path(), &digest).unwrap();
        fs::write(dir.path().join("dump.log"), "a whole log").unwrap();
        fs::write(dir.path().join("restore.log"), "another").unwrap();
        verify(dir.path(), &digest).unwrap();
        assert_eq!(write(dir.path()).unwrap(), digest, "writing it again changes nothing");
    }

    #[test]
    fn every_damage_is_named() {
        let flip = |dir: &Path| fs::write(dir.join("pages-1.img"), "memorx").unwrap();
        let cut = |dir: &Path| File::options().write(true).open(dir.join("copies/0")).unwrap().set_len(3).unwrap();
        let remove = |dir: &Path| fs::remove_file(dir.join("empty")).unwrap();
        let forge = |dir: &Path| fs::write(dir.join(NAME), "{}").unwrap();
        let lose = |dir: &Path| fs::remove_file(dir.join(NAME)).unwrap();
        type Damage<'a> = (&'a dyn Fn(&Path), &'a str);
        let damages: [Damage; 5] =
            [(&flip, "pages-1.img"), (&cut, "copies/0"), (&remove, "empty"), (&forge, "manifest"), (&lose, "manifest")];
        for (damage, name) in damages {
            let dir = image();
            let digest = write(dir.path()).unwrap();
            damage(dir.path());
            let why = verify(dir.path(), &digest).unwrap_err().to_string();
            assert!(why.contains("damaged") && why.contains(name), "{why}");
        }
    }
}
