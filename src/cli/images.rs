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
    Ok(say(out, args, "exported", &format!("the checkpoint of {} is in {}", args.unit, args.dir.display())))
}

pub(super) fn import(out: Output, args: &Images) -> Result<Exit, Error> {
    run(args, exchange::import)?;
    Ok(say(out, args, "imported", &format!("{} will be restored from what is in {}", args.unit, args.dir.display())))
}

type Verb = fn(&Paths, &UnitName, &Path) -> anyhow::Result<()>;

fn run(args: &Images, verb: Verb) -> Result<(), Error> {
    if !geteuid().is_root() {
        return Err(Error::NotAuthorized("checkpoints hold the memory of services: this is for root alone".into()));
    }
    Ok(verb(&Paths::host(), &args.unit, &args.dir)?)
}

fn say(out: Output, args: &Images, event: &str, text: &str) -> Exit {
    out.event(&json!({ "event": event, "unit": args.unit, "dir": args.dir }), text);
    Exit::Ok
}
