//! Errors with names, as they go over the bus.

use zbus::DBusError as _;

/// What a method of kupd answers when it cannot do what was asked; `org.kup1.Error.…` on the bus. The text says what,
/// which unit or file, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, zbus::DBusError)]
#[zbus(prefix = "org.kup1.Error")]
pub enum Error {
    /// An argument or an option is not of the form that the method takes.
    InvalidArgument(String),
    /// systemd has no such unit.
    NoSuchUnit(String),
    /// The unit is masked.
    Masked(String),
    /// The unit is not marked for preservation.
    NotMarked(String),
    /// Preflight found something that rules out what was asked.
    PreflightFailed(String),
    /// Another update is under way.
    Busy(String),
    /// The caller may not do this.
    NotAuthorized(String),
    /// There is no such kernel, or none to go to.
    NoTarget(String),
    /// A configuration or unit file cannot be used.
    BadConfiguration(String),
    /// Anything else.
    Failed(String),
}

impl Error {
    /// The text without the name.
    pub fn message(&self) -> &str {
        self.description().unwrap_or_default()
    }

    /// The error that a reply's `name` stands for; `None` for a foreign name.
    fn named(name: &str, text: String) -> Option<Self> {
        Some(match name.strip_prefix("org.kup1.Error.")? {
            "InvalidArgument" => Self::InvalidArgument(text),
            "NoSuchUnit" => Self::NoSuchUnit(text),
            "Masked" => Self::Masked(text),
            "NotMarked" => Self::NotMarked(text),
            "PreflightFailed" => Self::PreflightFailed(text),
            "Busy" => Self::Busy(text),
            "NotAuthorized" => Self::NotAuthorized(text),
            "NoTarget" => Self::NoTarget(text),
            "BadConfiguration" => Self::BadConfiguration(text),
            _ => Self::Failed(text),
        })
    }
}

impl From<zbus::Error> for Error {
    fn from(e: zbus::Error) -> Self {
        match &e {
            zbus::Error::MethodError(name, text, _) => {
                let text = text.clone().unwrap_or_else(|| name.to_string());
                Self::named(name, text.clone()).unwrap_or(Self::Failed(text))
            }
            zbus::Error::FDO(f) => (**f).clone().into(),
            _ => Self::Failed(e.to_string()),
        }
    }
}

impl From<zbus::fdo::Error> for Error {
    fn from(e: zbus::fdo::Error) -> Self {
        let text = e.description().unwrap_or_default().to_string();
        match &e {
            zbus::fdo::Error::AccessDenied(_)
            | zbus::fdo::Error::AuthFailed(_)
            | zbus::fdo::Error::InteractiveAuthorizationRequired(_) => Self::NotAuthorized(text),
            zbus::fdo::Error::InvalidArgs(_) => Self::InvalidArgument(text),
            zbus::fdo::Error::ServiceUnknown(_) | zbus::fdo::Error::NameHasNoOwner(_) => {
                Self::Failed(format!("kupd cannot be started: {text}. Is kup installed completely?"))
            }
            zbus::fdo::Error::ZBus(inner) => Self::from(inner.clone()),
            _ if text.is_empty() => Self::Failed(e.to_string()),
            _ => Self::Failed(text),
        }
    }
}

impl From<anyhow::Error> for Error {
    fn from(e: anyhow::Error) -> Self {
        Self::Failed(format!("{e:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let all = [
            Error::InvalidArgument("x".into()),
            Error::NoSuchUnit("x".into()),
            Error::Masked("x".into()),
            Error::NotMarked("x".into()),
            Error::PreflightFailed("x".into()),
            Error::Busy("x".into()),
            Error::NotAuthorized("x".into()),
            Error::NoTarget("x".into()),
            Error::BadConfiguration("x".into()),
            Error::Failed("x".into()),
        ];
        for e in all {
            assert_eq!(Error::named(&e.name(), "x".into()).as_ref(), Some(&e), "{e}");
        }
        assert_eq!(Error::named("org.freedesktop.DBus.Error.Failed", String::new()), None);
    }
}
