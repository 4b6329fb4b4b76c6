//! Images that only this update's own new kernel can read (`Encryption=`): the key goes there in memory. Sealed in the TPM,
//! where there is one, it also outlives a reset; otherwise the way back needs a kexec.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use super::{Record, UnitState};
use crate::command::feed;
use crate::inspect;
use crate::kernel::handover;
use crate::paths::Paths;
use crate::store::vault::{KEY, Vault};

/// What the images' file system itself takes, and as much again as the services may grow until the checkpoint, bytes.
const SLACK: u64 = 1 << 30;

/// Makes the encrypted file system for the units' images, and keeps its key for the target; gives the words
/// that the target's command line needs. [`end`] undoes it.
///
/// # Errors
/// What could not be done.
pub fn prepare(paths: &Paths, record: &mut Record) -> Result<Vec<String>> {
    let key = new_key()?;
    let size = |name| inspect::unit(name).map_or(0, |procs| procs.image_size());
    let needed: u64 = record.units_in(UnitState::Running).map(size).sum();
    // Written down first: an update that dies here has something to undo.
    record.handover = Some(Vec::new());
    record.save(&paths.record())?;
    let disk = statvfs(&paths.state_dir())?;
    let size = (needed * 2 + SLACK).min(disk.blocks_available() * disk.fragment_size());
    Vault::new(paths, &record.id).create(&key, size)?;
    let addresses =
        handover::keep(paths, &record.id, &key, &record.target).context("the key cannot be kept in memory")?;
    if has_tpm2() {
        seal(paths, &key).context("the TPM does not take the key")?;
    }
    let words = handover::words(&addresses).collect();
    record.handover = Some(addresses);
    Ok(words)
}

/// The same words for a kexec back.
pub fn words(record: &Record) -> Vec<String> {
    handover::words(record.handover.as_deref().unwrap_or_default()).collect()
}

/// Makes the images readable in this boot, where they are encrypted and it has not been done yet.
///
/// # Errors
/// When their key is gone.
pub fn unlock(paths: &Paths, record: &Record) -> Result<()> {
    let vault = Vault::new(paths, &record.id);
    let Some(addresses) = record.handover.as_ref().filter(|_| !vault.is_open()) else { return Ok(()) };
    let key = handover::take(paths, &record.id, addresses)
        .or_else(|gone| if sealed(paths).exists() { unseal(paths) } else { Err(gone) });
    vault.open(&key.context("the key of its image is gone")?)
}

/// Forgets the key and removes the file system, of an update however it ended.
///
/// # Errors
/// When something stays.
pub fn end(paths: &Paths, record: &Record) -> Result<()> {
    let Some(addresses) = &record.handover else { return Ok(()) };
    let removed = Vault::new(paths, &record.id).remove();
    let forgotten = handover::release(paths, addresses);
    let _ = fs::remove_file(sealed(paths));
    removed.and(forgotten)
}

/// Is there a TPM that systemd can seal a key with?
pub fn has_tpm2() -> bool {
    Command::new("systemd-creds").args(["has-tpm2", "--quiet"]).status().is_ok_and(|status| status.success())
}

fn new_key() -> Result<[u8; KEY]> {
    let mut key = [0; KEY];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(key)
}

fn sealed(paths: &Paths) -> PathBuf {
    paths.state_dir().join("key.cred")
}

/// systemd-creds(1) seals for this machine's TPM; what it writes is of no use anywhere else.
fn seal(paths: &Paths, key: &[u8; KEY]) -> Result<()> {
    let mut command = Command::new("systemd-creds");
    command.args(["--with-key=tpm2", "--name=kup", "encrypt", "-"]).arg(sealed(paths));
    feed(&mut command, key).map(drop)
}

fn unseal(paths: &Paths) -> Result<[u8; KEY]> {
    let mut command = Command::new("systemd-creds");
    let key = feed(command.args(["--name=kup", "decrypt"]).arg(sealed(paths)).arg("-"), &[])?;
    key.try_into().ok().context("the TPM gave back something else than the key")
}
