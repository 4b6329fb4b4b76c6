//! Saved states of a machine, and power cuts.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::json;

use super::{Vm, qemu::Qemu};

impl Vm {
    /// Saves memory and disk under a name.
    pub fn savevm(&self, tag: &str) -> Result<()> {
        // A saved connection could never be spoken on again.
        self.drop_connection();
        std::thread::sleep(Duration::from_secs(1));
        self.monitor(&format!("savevm {tag}"))
    }

    /// Goes back to a saved state, in another QEMU: one that runs would not let its time stamp counter go back
    /// (cpu_get_ticks()), and the guest's clock would jump by all that it ran meanwhile.
    pub fn loadvm(&mut self, tag: &str) -> Result<()> {
        self.drop_connection();
        self.qemu.kill();
        self.restart(Some(tag))?;
        self.set_clock()
    }

    /// Forgets a saved state.
    pub fn delvm(&self, tag: &str) -> Result<()> {
        self.monitor(&format!("delvm {tag}"))
    }

    /// Cuts the power and boots again from the disk: what had not reached it is lost.
    pub fn power_cut(&mut self) -> Result<()> {
        self.drop_connection();
        self.qemu.kill();
        self.restart(None)
    }

    /// Starts QEMU again in the machine's namespace, whose lock the one before took with it if it was detached.
    fn restart(&mut self, tag: Option<&str>) -> Result<()> {
        let detached = self.net.owner_is_qemu();
        if detached {
            self.net.own()?;
        }
        self.qemu = Qemu::start(&self.spec, &self.net, tag)?;
        if detached {
            self.net.detach();
        }
        Ok(())
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        self.drop_connection();
        self.qmp("system_reset", json!({}))?;
        Ok(())
    }

    /// Shuts the guest down in an orderly way and waits until QEMU has ended.
    pub fn power_off(&mut self, limit: Duration) -> Result<()> {
        self.try_ssh("systemctl poweroff --no-block", Duration::from_secs(30))?;
        if !self.qemu.wait(limit) {
            bail!("the guest did not shut down within {limit:.0?}");
        }
        Ok(())
    }

    /// Ends QEMU in an orderly way, so that its disk can be copied. The guest is not asked.
    pub fn quit(self) -> Result<()> {
        self.qmp("quit", json!({}))?;
        if !self.qemu.wait(Duration::from_secs(60)) {
            bail!("QEMU does not quit");
        }
        Ok(())
    }

    /// Runs a command of QEMU's own monitor, which answers with nothing unless something is wrong.
    fn monitor(&self, line: &str) -> Result<()> {
        let answer = self.qmp("human-monitor-command", json!({ "command-line": line }))?;
        match answer.as_str().map(str::trim) {
            None | Some("") => Ok(()),
            Some(words) => bail!("QEMU's `{line}`: {words}"),
        }
    }
}
