//! `org.kup1.Update`: one update as an object.

use super::UpdateView;

/// The object at `/org/kup1/update/ID`.
pub struct UpdateObject {
    /// What it shows; changed by the tracker, which announces the changes.
    pub view: UpdateView,
}

/// One update: the one that is under way, or the last one.
#[zbus::interface(name = "org.kup1.Update")]
impl UpdateObject {
    /// Which update, as in the object's path: microseconds since the epoch, hexadecimal.
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.view.id.to_string()
    }

    /// Where it stands: checking, arming, armed, checkpointing, switching, restoring, assessing, falling-back; in the end
    /// refused (nothing was touched), done, aborted (before the switch, nothing was lost), fell-back (on the old kernel
    /// again) or failed.
    #[zbus(property)]
    fn state(&self) -> &str {
        self.view.state.as_str()
    }

    /// Why it was refused, aborted or failed, or fell back; empty otherwise.
    #[zbus(property)]
    fn reason(&self) -> &str {
        &self.view.reason
    }

    /// Kernel release that it leaves.
    #[zbus(property)]
    fn source(&self) -> &str {
        &self.view.source
    }

    /// Kernel release that it goes to; empty while that is not decided.
    #[zbus(property)]
    fn target(&self) -> &str {
        &self.view.target
    }

    /// Whether it stops when it is armed, and "systemctl kexec" is left to the administrator.
    #[zbus(property)]
    fn stage_only(&self) -> bool {
        self.view.stage_only
    }

    /// Each unit's name, its state (running, imaged, void, resumed, cold) and, where it is cold, the reason.
    #[zbus(property)]
    fn units(&self) -> Vec<(String, String, String)> {
        self.view.units.clone()
    }

    /// What took how long: name, begin and end in microseconds since the epoch; an end of 0 means still under way.
    #[zbus(property)]
    fn phases(&self) -> Vec<(String, u64, u64)> {
        self.view.phases.clone()
    }

    /// Units that run with files that were replaced on disk since they started, and the paths of these files.
    #[zbus(property)]
    fn outdated(&self) -> Vec<(String, Vec<String>)> {
        self.view.outdated.clone()
    }

    /// Bytes of memory that stayed in RAM over the switch and that the machine does not have back until its next boot.
    #[zbus(property)]
    fn kept_back(&self) -> u64 {
        self.view.kept_back
    }
}
