//! Who may do what: polkit, asked per method.

use std::collections::HashMap;

use nix::unistd::geteuid;
use zbus::Connection;
use zbus::fdo::DBusProxy;
use zbus::message::{Flags, Header};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::Error;

/// The polkit actions of `dbus/org.kup1.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run a check.
    Check,
    /// Mark and unmark units.
    Mark,
    /// Prepare an update, leaving the switch to the administrator; give a prepared one up.
    Stage,
    /// Prepare an update and switch.
    Update,
}

impl Action {
    /// Its id.
    pub fn id(self) -> &'static str {
        match self {
            Action::Check => "org.kup1.check",
            Action::Mark => "org.kup1.mark",
            Action::Stage => "org.kup1.stage",
            Action::Update => "org.kup1.update",
        }
    }
}

/// Lets the caller through when polkit grants `action`. The user that kupd runs as (root) is not asked about, so that
/// kup works where polkit is not installed; when polkit does not answer, nobody else is let through.
///
/// # Errors
/// [`Error::NotAuthorized`].
pub async fn allow(conn: &Connection, header: &Header<'_>, action: Action) -> Result<(), Error> {
    if is_own_user(conn, header).await? {
        return Ok(());
    }
    let refused = |why: String| Error::NotAuthorized(format!("{why}; run the command as root"));
    let subject = Subject::new_for_message_header(header).map_err(|e| refused(e.to_string()))?;
    let flags = match header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) {
        true => CheckAuthorizationFlags::ALLOW_USER_INTERACTION,
        false => CheckAuthorizationFlags::empty(),
    };
    let answer = async {
        let authority = AuthorityProxy::new(conn).await?;
        authority.check_authorization(&subject, action.id(), &HashMap::new(), flags, "").await
    };
    match answer.await {
        Ok(answer) if answer.is_authorized => Ok(()),
        Ok(answer) if answer.is_challenge => Err(refused(format!("{} needs an administrator's password", action.id()))),
        Ok(_) => Err(refused(format!("polkit does not grant {}", action.id()))),
        Err(e) => {
            tracing::warn!("polkit does not answer, so {} is refused: {e}", action.id());
            Err(refused("polkit does not answer".into()))
        }
    }
}

/// Lets only the user through that kupd runs as.
///
/// # Errors
/// [`Error::NotAuthorized`].
pub async fn allow_root_only(conn: &Connection, header: &Header<'_>) -> Result<(), Error> {
    match is_own_user(conn, header).await? {
        true => Ok(()),
        false => Err(Error::NotAuthorized("only root may call this".into())),
    }
}

/// Asks the bus, which knows the user of a connection for certain.
async fn is_own_user(conn: &Connection, header: &Header<'_>) -> Result<bool, Error> {
    let sender = header.sender().ok_or_else(|| Error::NotAuthorized("the call has no sender".into()))?;
    let uid = async { DBusProxy::new(conn).await?.get_connection_unix_user(sender.clone().into()).await };
    let uid = uid.await.map_err(|e| Error::NotAuthorized(format!("the bus does not know the caller: {e}")))?;
    Ok(uid == geteuid().as_raw())
}
