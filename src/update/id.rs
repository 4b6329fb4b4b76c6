//! The id of an update: the moment it was asked for.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Microseconds since the epoch in lower-case hexadecimal: sortable, one D-Bus path element, one safe file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpdateId(String);

/// The string is no update id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an update id (1 to 16 lower-case hexadecimal digits)")]
pub struct BadUpdateId(String);

impl UpdateId {
    /// An id for an update that begins now.
    pub fn now() -> Self {
        let usec = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Self(format!("{:x}", usec as u64))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpdateId {
    type Err = BadUpdateId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits && (1..=16).contains(&s.len()) { Ok(Self(s.into())) } else { Err(BadUpdateId(s.into())) }
    }
}

impl TryFrom<String> for UpdateId {
    type Error = BadUpdateId;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<UpdateId> for String {
    fn from(id: UpdateId) -> Self {
        id.0
    }
}

impl fmt::Display for UpdateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_hex() {
        assert!("63f0a".parse::<UpdateId>().is_ok());
        for bad in ["", "..", "63F0A", "a/b", "00000000000000000"] {
            assert!(bad.parse::<UpdateId>().is_err(), "{bad}");
        }
        assert!(UpdateId::now().as_str().parse::<UpdateId>().is_ok());
    }
}
