//! `kup status`, and reading an update's object.

use std::collections::HashMap;

use zbus::names::InterfaceName;
use zbus::{Connection, ObjectPath, OwnedVariant, Variant};

use super::model::{Phase, Status, Update, UpdateUnit, blackout};
use super::{Context, Exit, output};
use crate::bus::{Error, NAME, NO_OBJECT};

pub(super) async fn status(context: &Context) -> Result<Exit, Error> {
    let manager = &context.manager;
    let current = manager.current_update().await?;
    let update = match current.as_str() {
        NO_OBJECT => None,
        _ => Some(read(&context.conn, &current).await?),
    };
    let status = Status {
        version: manager.version().await?,
        mode: manager.mode().await?,
        running_kernel: manager.running_kernel().await?,
        staged_kernel: Some(manager.staged_kernel().await?).filter(|s| !s.is_empty()),
        update,
    };
    context.out.show(&status, output::status);
    Ok(status.update.as_ref().map_or(Exit::Ok, ended))
}

/// The exit code that tells how an update ended; [`Exit::Ok`] while it is under way.
pub(super) fn ended(update: &Update) -> Exit {
    match update.state.as_str() {
        "refused" => Exit::Blocked,
        "failed" => Exit::Failed,
        // Before the end, a cold start is what was accepted.
        _ if update.is_final() && update.has_cold_units() => Exit::Failed,
        "aborted" => Exit::Aborted,
        "fell-back" => Exit::FellBack,
        _ => Exit::Ok,
    }
}

/// Reads all properties of an update's object at once, so that they belong together.
pub(super) async fn read(conn: &Connection, path: &ObjectPath<'_>) -> Result<Update, Error> {
    let proxy = zbus::fdo::PropertiesProxy::new(conn, NAME, path).await?;
    let name = InterfaceName::from_static_str_unchecked("org.kup1.Update");
    Ok(from_properties(proxy.get_all(name).await.map_err(zbus::Error::from)?))
}

fn from_properties(mut properties: HashMap<String, OwnedVariant>) -> Update {
    let mut outdated: HashMap<String, Vec<String>> =
        take::<Vec<(String, Vec<String>)>>(&mut properties, "Outdated").into_iter().collect();
    let units = take::<Vec<(String, String, String)>>(&mut properties, "Units").into_iter();
    let phases = take::<Vec<(String, u64, u64)>>(&mut properties, "Phases").into_iter();
    let phases: Vec<_> = phases.map(|(name, start, end)| Phase::new(name, start, end)).collect();
    let units = units.map(|(unit, state, reason)| {
        let outdated = outdated.remove(&unit).unwrap_or_default();
        UpdateUnit { unit, state, reason: Some(reason).filter(|r| !r.is_empty()), outdated }
    });
    Update {
        units: units.collect(),
        blackout_usec: blackout(&phases).map(|(start, end)| end - start),
        phases,
        kept_back_bytes: take(&mut properties, "KeptBack"),
        id: take(&mut properties, "Id"),
        state: take(&mut properties, "State"),
        reason: Some(take::<String>(&mut properties, "Reason")).filter(|r| !r.is_empty()),
        source: take(&mut properties, "Source"),
        target: take(&mut properties, "Target"),
        stage_only: take(&mut properties, "StageOnly"),
    }
}

/// A property; the default where kupd (of another version) has none of this name and type.
fn take<T: Default + TryFrom<Variant<'static>>>(properties: &mut HashMap<String, OwnedVariant>, name: &str) -> T {
    properties.remove(name).and_then(|v| T::try_from(Variant::from(v)).ok()).unwrap_or_default()
}
