//! A TPM 2.0 for machines with UEFI: swtpm, which ends with the QEMU that it serves.

use std::fs;

use anyhow::{Context, Result};

use super::Spec;
use super::namespace::Namespace;
use crate::{paths, sh};

/// Starts it; what it has to remember over a power cut lies beside the machine's disk. Gives QEMU's arguments.
pub fn start(spec: &Spec, net: &Namespace) -> Result<Vec<String>> {
    let (state, socket) = (spec.dir.join("tpm"), net.dir().join("tpm.sock"));
    paths::ensure(&state)?;
    if socket.exists() {
        fs::remove_file(&socket).context("cannot remove the TPM's old socket")?;
    }
    // In the namespace, so that whatever clears that away finds it.
    let mut swtpm = net.command("swtpm");
    swtpm.args(["socket", "--tpm2", "--daemon", "--terminate", "--tpmstate"]);
    swtpm.arg(format!("dir={}", state.display()));
    swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
    sh::run(&mut swtpm)?;
    let chardev = format!("socket,id=chrtpm,path={}", socket.display());
    let words = ["-chardev", &chardev, "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis,tpmdev=tpm0"];
    Ok(words.map(str::to_owned).to_vec())
}
