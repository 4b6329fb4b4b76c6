//! Exit codes. They are part of the interface: scripts may rely on them.

use std::process::ExitCode;

use crate::bus::Error;

/// How `kup` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// 0: it is done, or all is well.
    Ok = 0,
    /// 1: it failed for a reason that has no code of its own.
    Failure = 1,
    /// 2: the command line makes no sense.
    Usage = 2,
    /// 3: check found blockers, or the update was refused for them; nothing was touched.
    Blocked = 3,
    /// 4: not authorized.
    NotAuthorized = 4,
    /// 5: another update is under way.
    Busy = 5,
    /// 6: the update was aborted before the switch; nothing was lost.
    Aborted = 6,
    /// 7: the update failed, or units started cold.
    Failed = 7,
    /// 8: the machine is back on the old kernel, with its units.
    FellBack = 8,
}

impl Exit {
    /// All of them, as the help shows them.
    pub const HELP: &str = "\
Exit codes:
  0  done, or all is well
  1  failed for another reason
  2  the command line makes no sense
  3  check found blockers, or the update was refused for them; nothing was touched
  4  not authorized
  5  another update is under way
  6  the update was aborted before the switch; nothing was lost
  7  the update failed, or units started cold
  8  the machine is back on the old kernel, and the services with it";
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(e: &Error) -> Self {
        match e {
            Error::PreflightFailed(_) => Exit::Blocked,
            Error::NotAuthorized(_) => Exit::NotAuthorized,
            Error::Busy(_) => Exit::Busy,
            _ => Exit::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        let all = [
            Exit::Ok,
            Exit::Failure,
            Exit::Usage,
            Exit::Blocked,
            Exit::NotAuthorized,
            Exit::Busy,
            Exit::Aborted,
            Exit::Failed,
            Exit::FellBack,
        ];
        for (line, exit) in Exit::HELP.lines().skip(1).zip(all) {
            assert!(line.starts_with(&format!("  {}  ", exit as u8)), "{line} for {exit:?}");
        }
        assert_eq!(Exit::HELP.lines().count(), 1 + all.len());
    }

    #[test]
    fn errors_with_a_code_of_their_own() {
        assert_eq!(Exit::from(&Error::Busy(String::new())), Exit::Busy);
        assert_eq!(Exit::from(&Error::NotAuthorized(String::new())), Exit::NotAuthorized);
        assert_eq!(Exit::from(&Error::PreflightFailed(String::new())), Exit::Blocked);
        assert_eq!(Exit::from(&Error::NoSuchUnit(String::new())), Exit::Failure);
    }
}
