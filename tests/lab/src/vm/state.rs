//! A machine that outlives the lab: what is written down to find it again.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::namespace::Namespace;
use super::qemu::Qemu;
use super::ssh::Ssh;
use super::{Spec, Vm};
use crate::{image, paths};

#[derive(Debug, Serialize, Deserialize)]
struct State {
    pid: i32,
    namespace: String,
    #[serde(default = "dir")]
    dir: PathBuf,
    image: PathBuf,
    about: image::About,
    memory: u32,
}

/// Directory of the one detached machine.
pub fn dir() -> PathBuf {
    paths::lab().join("vm")
}

/// The detached machine, if one runs.
pub fn detached() -> Result<Option<Vm>> {
    let path = dir().join("state.json");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    let state: State = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    let net = Namespace::attach(&state.namespace)?;
    if net.free()? {
        fs::remove_file(&path)?;
        return Ok(None);
    }
    let image = image::Image { dir: state.image, about: state.about };
    let spec = Spec { memory: state.memory, detached: true, ..Spec::new(state.dir, &image) };
    let qemu = Qemu::attach(state.pid, &net)?;
    let ssh = Ssh::new(&net, &spec.image.key());
    Ok(Some(Vm { spec, net, qemu, ssh }))
}

impl Vm {
    /// Leaves the machine running; [`detached`] finds it again.
    pub fn detach(mut self) -> Result<()> {
        if !self.spec.detached {
            bail!("this machine was started to end with the lab");
        }
        self.save_state()?;
        self.net.detach();
        Ok(())
    }

    /// Notes where the machine can be found.
    pub fn save_state(&self) -> Result<()> {
        let state = State {
            pid: self.qemu.pid(),
            namespace: self.net.name().to_owned(),
            dir: self.spec.dir.clone(),
            image: self.spec.image.dir.clone(),
            about: self.spec.image.about.clone(),
            memory: self.spec.memory,
        };
        paths::ensure(&dir())?;
        fs::write(dir().join("state.json"), serde_json::to_vec_pretty(&state)?).context("cannot note the machine")
    }

    /// Ends a detached machine for good.
    pub fn stop(mut self) -> Result<()> {
        self.drop_connection();
        self.qemu.kill();
        self.net.own()?;
        fs::remove_file(dir().join("state.json")).ok();
        Ok(())
    }
}
