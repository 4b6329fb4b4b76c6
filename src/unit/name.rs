//! A validated unit name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a service unit, such as `redis-server.service` or `getty@tty1.service`.
///
/// Valid by construction: it holds no slash and is at most 255 bytes, so that it can be a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// Why a string is no [`UnitName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnitName {
    /// Not of the form that systemd.unit(5) asks for.
    #[error("'{0}' is not a valid unit name")]
    Invalid(String),
    /// A unit, but not a service.
    #[error("'{0}' is not a service; kup preserves services only")]
    NotAService(String),
}

impl UnitName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `redis-server` for `redis-server.service`.
    pub fn stem(&self) -> &str {
        self.0.strip_suffix(".service").unwrap_or(&self.0)
    }

    /// `getty@.service` for `getty@tty1.service`; `None` for a unit that is no instance.
    pub fn template(&self) -> Option<String> {
        let (prefix, instance) = self.stem().split_once('@')?;
        (!instance.is_empty()).then(|| format!("{prefix}@.service"))
    }

    /// `tty1` for `getty@tty1.service`.
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, i)| i).filter(|i| !i.is_empty())
    }
}

impl FromStr for UnitName {
    type Err = BadUnitName;

    /// Accepts `redis-server.service`, and `redis-server` as systemctl does.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // systemd.unit(5): ASCII letters, digits, ":", "-", "_", ".", "\" in the prefix; "@" for instances.
        let valid = |s: &str| {
            !s.is_empty()
                && s.len() <= 255
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
                && !s.starts_with(['.', '@'])
        };
        const OTHER: [&str; 10] =
            ["socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];
        if !valid(s) {
            return Err(BadUnitName::Invalid(s.into()));
        }
        if s.ends_with(".service") {
            return if s == ".service" { Err(BadUnitName::Invalid(s.into())) } else { Ok(Self(s.into())) };
        }
        match s.rsplit_once('.') {
            Some((_, suffix)) if OTHER.contains(&suffix) => Err(BadUnitName::NotAService(s.into())),
            _ if s.len() + ".service".len() > 255 => Err(BadUnitName::Invalid(s.into())),
            _ => Ok(Self(format!("{s}.service"))),
        }
    }
}

impl TryFrom<String> for UnitName {
    type Error = BadUnitName;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<UnitName> for String {
    fn from(u: UnitName) -> Self {
        u.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (input, want) in [
            ("redis-server", Some("redis-server.service")),
            ("redis-server.service", Some("redis-server.service")),
            ("getty@tty1.service", Some("getty@tty1.service")),
            ("php8.2-fpm", Some("php8.2-fpm.service")),
            ("dev-sda\\x2d1.service", Some("dev-sda\\x2d1.service")),
            ("a.socket", None),
            ("../etc/passwd", None),
            ("", None),
            (".service", None),
            ("a b", None),
        ] {
            assert_eq!(input.parse::<UnitName>().ok().map(|u| u.to_string()).as_deref(), want, "{input}");
        }
        let u: UnitName = "getty@tty1".parse().unwrap();
        assert_eq!((u.template().as_deref(), u.instance()), (Some("getty@.service"), Some("tty1")));
        assert_eq!("memcached".parse::<UnitName>().unwrap().template(), None);
    }
}
