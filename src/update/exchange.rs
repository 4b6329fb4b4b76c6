//! A unit's checkpoint as plain images of CRIU, which `criu` and `crit` understand, and the way back into the update.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{Lock, Record, ThisBoot, UnitRecord, UnitState, manifest, ram, undo};
use crate::criu::{plain, pstree};
use crate::paths::Paths;
use crate::sys::{self, trust};
use crate::unit::UnitName;

/// What stands in for a unit's images while they are made. No unit's name begins with a dot.
const NEW: &str = ".import";

/// Writes the checkpoint of `unit` into the directory `dir`, which is made, or is there and empty.
///
/// # Errors
/// When there is no checkpoint, or it is damaged; `dir` is empty then.
pub fn export(paths: &Paths, unit: &UnitName, dir: &Path) -> Result<()> {
    let record = Record::load(&paths.record())?.context("there was no update yet, so nothing is checkpointed")?;
    let found = part_of(&record, unit)?;
    if found.state != UnitState::Resumed {
        has_image(unit, &found.state)?;
    }
    let images = paths.images(record.id.as_str()).join(unit.as_str());
    ensure!(
        images.is_dir(),
        "the images of update {} ({}) are not there (any more)",
        record.id,
        record.state().as_str()
    );
    manifest::verify(&images, found.manifest.as_deref().unwrap_or_default())?;
    own_and_empty(dir)?;
    let exported =
        ram::frames(paths, &record).and_then(|frames| Ok(plain::export(&plain::open(&images, frames)?, &images, dir)?));
    exported.inspect_err(|_| drop(undo::empty(dir)))?;
    manifest::remove(dir)
}

/// Takes the plain images in `dir` as the checkpoint of `unit`, of the same processes as the one that is there. It takes its
/// place; its processes are restored from it. `dir` stays as it is.
///
/// # Errors
/// When no restore is ahead that could use them, or they do not fit the update; its checkpoint is as it was then.
pub fn import(paths: &Paths, unit: &UnitName, dir: &Path) -> Result<()> {
    let _lock = Lock::wait(&paths.lock(), Lock::MOMENT)?;
    let mut record = Record::load(&paths.record())?.context("no update is under way")?;
    let found = part_of(&record, unit)?;
    is_ahead(ThisBoot::look(paths, &record)?, unit, &found.state)?;
    let (all, top) = (paths.images(record.id.as_str()), paths.state_dir());
    let (images, new) = (all.join(unit.as_str()), all.join(NEW));
    ensure!(images.is_dir(), "the images of update {} cannot be reached; encrypted ones wait for their key", record.id);
    trust::only_ours(&images, &top)?;
    trust::only_ours(dir, dir).context("an image that others can change is not restored")?;
    fits(dir, &images, found)?;
    undo::wipe(&new)?;
    let replaced = adopt(dir, &new).and_then(|digest| {
        record.units.entry(unit.clone()).or_default().manifest = Some(digest);
        sys::syncfs(&File::open(&all)?)?;
        exchange(&new, &images)?;
        // Between the two a power cut leaves an image without its manifest, which is not restored, rather than a wrong one.
        record.save(&paths.record()).inspect_err(|_| drop(exchange(&new, &images)))?;
        Ok(())
    });
    let wiped = undo::wipe(&new);
    replaced.and(wiped)
}

fn part_of<'a>(record: &'a Record, unit: &UnitName) -> Result<&'a UnitRecord> {
    let lacking = || format!("{unit} is not part of update {} ('kup status' shows what is)", record.id);
    record.units.get(unit).with_context(lacking)
}

/// Fails unless an image is there that nobody has used.
fn has_image(unit: &UnitName, state: &UnitState) -> Result<()> {
    match state {
        UnitState::Imaged => Ok(()),
        UnitState::Running => {
            bail!("{unit} has no checkpoint: one is made as the machine shuts down for the new kernel")
        }
        UnitState::Void => bail!("the update was given up, and {unit} has run on since its checkpoint"),
        UnitState::Resumed => bail!("{unit} has been restored, and an image is resumed at most once"),
        UnitState::Cold { reason } => bail!("{unit} starts cold, without a checkpoint: {reason}"),
    }
}

/// Fails unless `unit` is still to be restored in this boot.
fn is_ahead(boot: ThisBoot, unit: &UnitName, state: &UnitState) -> Result<()> {
    has_image(unit, state)?;
    match boot {
        ThisBoot::Restore | ThisBoot::FallBack => Ok(()),
        ThisBoot::Ordinary => bail!("the machine is about to leave this kernel; images are taken after the switch"),
        ThisBoot::Bless | ThisBoot::Settle => bail!("nothing is restored in this boot"),
    }
}

/// Makes `dir` root's alone.
fn own_and_empty(dir: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.with_context(|| format!("cannot make {}", dir.display())),
    }
    trust::only_ours(dir, dir)?;
    ensure!(fs::read_dir(dir)?.next().is_none(), "{} is not empty", dir.display());
    fs::set_permissions(dir, Permissions::from_mode(0o700)).with_context(|| format!("cannot change {}", dir.display()))
}

/// Fails unless the images in `dir` are of the processes that those in `images` are of, with all that kup keeps beside them.
fn fits(dir: &Path, images: &Path, unit: &UnitRecord) -> Result<()> {
    ensure!(pstree::pids(dir)? == pstree::pids(images)?, "{} has other processes than the checkpoint", dir.display());
    let copies = unit.files.iter().filter_map(|file| file.copy.as_ref());
    let missing = copies.chain(unit.carried.iter().map(|c| &c.archive)).find(|name| !dir.join(name).is_file());
    let export = "begin with what 'kup export' wrote";
    missing.map_or(Ok(()), |name| bail!("{} lacks {name}, which belongs to the checkpoint; {export}", dir.display()))
}

/// Makes images of ours in `new` of those in `dir`; gives the digest of their manifest.
fn adopt(dir: &Path, new: &Path) -> Result<String> {
    DirBuilder::new().mode(0o700).create(new).with_context(|| format!("cannot make {}", new.display()))?;
    plain::adopt(dir, new)?;
    manifest::write(new)
}

/// At no moment is there none of the two.
fn exchange(one: &Path, other: &Path) -> Result<()> {
    let exchanged = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
    exchanged.with_context(|| format!("cannot exchange {} and {}", one.display(), other.display()))
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
