//! `kup export`, `kup import`: between a checkpoint and plain images. Without kupd, which has no right to read either; there may
//! be no bus yet where they are of use.

use std::path::Path;

use nix::unistd::geteuid;
use serde_json::json;

use super::args::Images;
use super::{Exit, Output};
use crate::bus::Error;
use crate::paths::Paths;
use crate::unit::UnitName;
use crate::update::exchange;

pub(super) fn export(out: Output, args: &Images) -> Result<Exit, Error> {
    run(args, exchange::export)?;
    let Images { unit, dir } = args;
    let text = format!("the checkpoint of {unit} is in {}", dir.display());
    out.event(&json!({ "event": "exported", "unit": unit, "dir": dir }), &text);
    Ok(Exit::Ok)
}

pub(super) fn import(out: Output, args: &Images) -> Result<Exit, Error> {
    run(args, exchange::import)?;
    let Images { unit, dir } = args;
    let text = format!("{unit} will be restored from what is in {}", dir.display());
    out.event(&json!({ "event": "imported", "unit": unit, "dir": dir }), &text);
    Ok(Exit::Ok)
}

type Verb = fn(&Paths, &UnitName, &Path) -> anyhow::Result<()>;

fn run(args: &Images, verb: Verb) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Err(Error::NotAuthorized("checkpoints hold the memory of services: this is for root alone".into()));
    }
    Ok(verb(&Paths::host(), &args.unit, &args.dir)?)
}
