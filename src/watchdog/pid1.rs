//! systemd's own use of watchdogs, as far as the deadman has to do with it.

use anyhow::Result;

use crate::systemd::Systemd;

/// A watchdog setting of systemd's manager, in microseconds; 0 is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `RuntimeWatchdogSec=`: PID 1 has the device open and pings it.
    Runtime,
    /// `KExecWatchdogSec=`: PID 1 starts it at the end of a shutdown for a kexec, and leaves it running.
    KExec,
}

impl Setting {
    /// The name of its property.
    pub fn property(self) -> &'static str {
        match self {
            Setting::Runtime => "RuntimeWatchdogUSec",
            Setting::KExec => "KExecWatchdogUSec",
        }
    }
}

/// Sets the configured value in force again, whatever was set over D-Bus (manager_override_watchdog()).
pub const AS_CONFIGURED: u64 = u64::MAX;

/// PID 1.
pub trait Pid1 {
    /// The value in force.
    ///
    /// # Errors
    /// When systemd does not answer.
    fn get(&self, setting: Setting) -> Result<u64>;

    /// Sets a value until the next boot; PID 1 has opened or closed the device when this returns.
    ///
    /// # Errors
    /// When systemd refuses.
    fn set(&self, setting: Setting, usec: u64) -> Result<()>;
}

impl Pid1 for Systemd {
    fn get(&self, setting: Setting) -> Result<u64> {
        self.manager_property(setting.property())
    }

    fn set(&self, setting: Setting, usec: u64) -> Result<()> {
        self.set_manager_property(setting.property(), usec.into())
    }
}

/// Turns `setting` off, where it is not.
///
/// # Errors
/// As [`Pid1`].
pub fn turn_off(pid1: &dyn Pid1, setting: Setting) -> Result<()> {
    if pid1.get(setting)? == 0 { Ok(()) } else { pid1.set(setting, 0) }
}

/// Puts `former` in force again. If it is what is configured, our override goes away: it would hide later changes of the
/// configuration until the next boot.
///
/// # Errors
/// As [`Pid1`].
pub fn put_back(pid1: &dyn Pid1, setting: Setting, former: u64) -> Result<()> {
    if pid1.get(setting)? == former {
        return Ok(());
    }
    pid1.set(setting, AS_CONFIGURED)?;
    if pid1.get(setting)? == former { Ok(()) } else { pid1.set(setting, former) }
}

#[cfg(test)]
pub mod fake {
    use std::cell::RefCell;

    use super::*;

    /// A systemd with a configuration and overrides.
    #[derive(Default)]
    pub struct Fake {
        pub configured: [u64; 2],
        pub overridden: RefCell<[Option<u64>; 2]>,
        pub calls: RefCell<Vec<(Setting, u64)>>,
    }

    impl Pid1 for Fake {
        fn get(&self, setting: Setting) -> Result<u64> {
            Ok(self.overridden.borrow()[setting as usize].unwrap_or(self.configured[setting as usize]))
        }

        fn set(&self, setting: Setting, usec: u64) -> Result<()> {
            self.overridden.borrow_mut()[setting as usize] = Some(usec).filter(|u| *u != AS_CONFIGURED);
            self.calls.borrow_mut().push((setting, usec));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::fake::Fake;
    use super::*;

    #[test]
    fn the_configuration_comes_back() {
        let pid1 = Fake { configured: [20, 0], ..Fake::default() };
        turn_off(&pid1, Setting::Runtime).unwrap();
        turn_off(&pid1, Setting::KExec).unwrap();
        assert_eq!(*pid1.calls.borrow(), [(Setting::Runtime, 0)]);
        put_back(&pid1, Setting::Runtime, 20).unwrap();
        assert_eq!(*pid1.overridden.borrow(), [None, None]);
        put_back(&pid1, Setting::Runtime, 20).unwrap();
        assert_eq!(pid1.calls.borrow().len(), 2, "doing it twice changes nothing");
    }

    #[test]
    fn an_earlier_override_comes_back() {
        let pid1 = Fake { configured: [20, 0], overridden: RefCell::new([Some(60), None]), ..Fake::default() };
        turn_off(&pid1, Setting::Runtime).unwrap();
        put_back(&pid1, Setting::Runtime, 60).unwrap();
        assert_eq!(pid1.get(Setting::Runtime).unwrap(), 60);
    }
}
