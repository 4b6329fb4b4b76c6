//! What the record says of the boot loader's pin, and of those that updates before it have left.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::boot;

/// What the boot loader's pin replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Which boot loader: `grub` or `systemd-boot`.
    pub loader: String,
    /// The entry that is pinned, in the boot loader's own words.
    pub entry: String,
    /// What stood where the pin was written (GRUB's setting, systemd-boot's variable); `None` where nothing did.
    pub before: Option<String>,
}

impl Record {
    /// The pin that is in force though the update has ended.
    pub fn pin_left(&self) -> Option<&Pin> {
        self.pin.as_ref().filter(|_| self.state().is_final())
    }

    /// The earlier pin, unless somebody has chosen another default since: then it was not in force any more.
    pub fn earlier_in_force(&self) -> Option<&Pin> {
        let stays = |pin: &Pin, earlier: &Pin| pin.loader != earlier.loader || boot::follows(pin, earlier);
        self.earlier_pin.as_ref().filter(|earlier| self.pin.as_ref().is_none_or(|pin| stays(pin, earlier)))
    }

    /// The pin, with what stood in its place before the first of the pins that followed upon each other: what whoever
    /// takes it away for good puts back.
    pub fn whole_pin(&self) -> Option<Pin> {
        let mut pin = self.pin.clone()?;
        if let Some(earlier) = self.earlier_in_force().filter(|earlier| earlier.loader == pin.loader) {
            pin.before.clone_from(&earlier.before);
        }
        Some(pin)
    }

    /// The next update's earlier pin.
    pub fn pin_to_inherit(&self) -> Option<Pin> {
        self.whole_pin().filter(|_| self.state().is_final())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::{Event, TargetKernel};

    #[test]
    fn pins_that_follow_upon_each_other() {
        let pin = |loader: &str, entry: &str, before: Option<&str>| Pin {
            loader: loader.into(),
            entry: entry.into(),
            before: before.map(Into::into),
        };
        let grub = "# Written by kup; see kup(1).\n# x\nGRUB_DEFAULT=\"a\"\n";
        let dir = tempfile::tempdir().unwrap();
        let whole = |before: Option<&str>, loader: &str, earlier: Pin| {
            let target = TargetKernel { release: "2".into(), image: "/boot/2".into(), initrd: None };
            let mut r = Record::new("5a".parse().unwrap(), "1".into(), "b".into(), target);
            (r.pin, r.earlier_pin) = (Some(pin(loader, "b", before)), Some(earlier));
            assert_eq!(r.pin_to_inherit(), None, "it has not ended");
            r.advance(Event::Abort, &dir.path().join("record.json")).unwrap();
            (r.pin_to_inherit().unwrap().before, r.earlier_in_force().is_some())
        };
        let first = Some("first".to_string());
        let (boot, own) = (pin("systemd-boot", "a", Some("first")), Some("own".to_string()));
        assert_eq!(whole(Some("a"), "systemd-boot", boot.clone()), (first.clone(), true));
        assert_eq!(
            whole(Some("own"), "systemd-boot", boot.clone()),
            (own.clone(), false),
            "somebody has chosen another"
        );
        assert_eq!(whole(None, "systemd-boot", boot.clone()), (None, false));
        assert_eq!(whole(Some("own"), "grub", boot), (own, true), "the other boot loader's is as it was");
        assert_eq!(whole(Some(grub), "grub", pin("grub", "a", Some("first"))), (first, true));
        assert_eq!(whole(Some(grub), "grub", pin("grub", "b", Some("first"))), (Some(grub.into()), false));
        assert!(!whole(Some("GRUB_DEFAULT=\"a\"\n"), "grub", pin("grub", "a", None)).1, "somebody's own");
    }
}
