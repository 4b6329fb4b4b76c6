//! Marking units: what `Preserve`, `Release` and `ListUnits` do.

use zbus::Connection;

use super::begin::parse_unit;
use super::types::UnitEntry;
use super::{Daemon, Error, systemd};
use crate::paths::Paths;
use crate::unit::mark::{self, MarkError, MarkOptions, Preserved, Released};
use crate::unit::{
    Adjust, Fallback, PreserveSpec, Storage, UnitError, UnitFile, UnitName, adjustments, load, marked, refusals, scan,
};

/// What a caller says about a unit's mark, word for word.
#[derive(Default)]
pub struct Wanted {
    /// Names of adjustments.
    pub adjust: Vec<String>,
    /// A command line.
    pub health_check: Option<String>,
    /// `disk` or `none`.
    pub fallback: Option<String>,
    /// `auto`, `disk` or `ram`.
    pub storage: Option<String>,
}

impl Wanted {
    fn parse(self) -> Result<MarkOptions, Error> {
        let unknown = |what, word: &str| Error::InvalidArgument(format!("there is no {what} '{word}'"));
        let adjust = self.adjust.iter().map(|w| Adjust::from_word(w).ok_or_else(|| unknown("adjustment", w)));
        let fallback = self.fallback.map(|w| Fallback::from_word(&w).ok_or_else(|| unknown("fallback", &w)));
        let storage = self.storage.map(|w| Storage::from_word(&w).ok_or_else(|| unknown("storage", &w)));
        Ok(MarkOptions {
            adjust: adjust.collect::<Result<_, _>>()?,
            health_check: self.health_check,
            fallback: fallback.transpose()?,
            storage: storage.transpose()?,
        })
    }
}

/// Marks `unit` and lets systemd read its files again. Returns what applies from the unit's next start on, one line
/// each; empty where nothing does.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::NoSuchUnit`], [`Error::Masked`], [`Error::PreflightFailed`] for an adjustment
/// that the unit cannot take, [`Error::BadConfiguration`], [`Error::Failed`].
pub async fn preserve(daemon: &Daemon, conn: &Connection, unit: &str, wanted: Wanted) -> Result<String, Error> {
    let unit = parse_unit(unit)?;
    let options = wanted.parse()?;
    let _changing = daemon.changing.lock().await;
    let file = load(&daemon.paths, &unit)?;
    let spec = PreserveSpec { preserve: true, adjust: options.adjust.clone(), ..Default::default() };
    if let Some(refusal) = refusals(&file, &spec).first() {
        return Err(Error::PreflightFailed(format!("{unit}: {}", refusal.why)));
    }
    match mark::preserve(&daemon.paths, &unit, &options)? {
        Preserved::Written(path) => {
            tracing::info!("{unit} is marked by {}", path.display());
            systemd::reload(conn).await?;
        }
        Preserved::Already(origin) => tracing::info!("{unit} is marked already, by {}", origin.file.display()),
    }
    let file = load(&daemon.paths, &unit)?;
    let spec = PreserveSpec::of(&file)?;
    Ok(words(&file, &spec).join("\n"))
}

/// Takes the mark of `unit` away and lets systemd read its files again. Returns what is to be known about it.
///
/// # Errors
/// [`Error::InvalidArgument`], [`Error::NotMarked`], [`Error::BadConfiguration`], [`Error::Failed`].
pub async fn release(daemon: &Daemon, conn: &Connection, unit: &str) -> Result<String, Error> {
    let unit = parse_unit(unit)?;
    let _changing = daemon.changing.lock().await;
    let adjusted = load(&daemon.paths, &unit).ok().and_then(|file| {
        let spec = PreserveSpec::of(&file).ok()?;
        Some(!adjustments(&file, &spec).is_empty())
    });
    let mut notes = Vec::new();
    match mark::release(&daemon.paths, &unit)? {
        Released::NotMarked => return Err(Error::NotMarked(format!("{unit} is not marked"))),
        Released::Removed(path) => tracing::info!("the mark of {unit}, {}, is removed", path.display()),
        Released::Overridden { dropin, mark } => {
            tracing::info!("the mark of {unit} is taken back by {}", dropin.display());
            notes.push(format!("{} still marks it; {} takes that back", mark.file.display(), dropin.display()));
        }
    }
    systemd::reload(conn).await?;
    if adjusted == Some(true) {
        notes.push("what kup had adjusted is as before from its next start on".into());
    }
    Ok(notes.join("\n"))
}

/// The marked units, and what is wrong with marks that cannot be used.
pub async fn list(daemon: &Daemon, conn: &Connection) -> (Vec<UnitEntry>, Vec<String>) {
    let found = scan(&daemon.paths);
    let mut units = Vec::new();
    for (file, spec) in &found.units {
        let unit = file.name.to_string();
        let active_state = systemd::status(conn, &unit).await.map(|s| s.active).unwrap_or_else(|e| {
            tracing::warn!("systemd does not say how {unit} is: {e}");
            "unknown".into()
        });
        let marked_by = spec.origin.as_ref().map(|o| o.file.display().to_string()).unwrap_or_default();
        let adjustments = adjustments(file, spec).iter().map(|a| format!("{}={}", a.directive, a.value)).collect();
        units.push(UnitEntry { unit, marked_by, adjustments, active_state });
    }
    (units, found.errors.iter().map(|e| e.to_string()).collect())
}

/// Checks that marks can be read, that there are some, and that `units` are marked.
///
/// # Errors
/// [`Error::BadConfiguration`] and [`Error::NotMarked`].
pub fn check_marked(paths: &Paths, units: &[UnitName]) -> Result<(), Error> {
    let (marked, errors) = marked(paths);
    if !errors.is_empty() {
        let errors: Vec<_> = errors.iter().map(|e| e.to_string()).collect();
        return Err(Error::BadConfiguration(errors.join("; ")));
    }
    if marked.is_empty() {
        let text = "no unit is marked, so nothing would live through the update; 'kup preserve UNIT' marks one";
        return Err(Error::NotMarked(text.into()));
    }
    match units.iter().find(|unit| !marked.iter().any(|(m, _)| m == *unit)) {
        Some(unit) => Err(Error::NotMarked(format!("{unit} is not marked; 'kup list' shows the units that are"))),
        None => Ok(()),
    }
}

fn words(file: &UnitFile, spec: &PreserveSpec) -> Vec<String> {
    let each = adjustments(file, spec);
    each.iter().map(|a| format!("{}={} from its next start on: {}", a.directive, a.value, a.why)).collect()
}

impl From<UnitError> for Error {
    fn from(e: UnitError) -> Self {
        match e {
            UnitError::NotFound { .. } => Self::NoSuchUnit(e.to_string()),
            UnitError::Masked { .. } => Self::Masked(e.to_string()),
            e => Self::BadConfiguration(e.to_string()),
        }
    }
}

impl From<MarkError> for Error {
    fn from(e: MarkError) -> Self {
        match e {
            MarkError::Unit(e) => e.into(),
            MarkError::BadOption { .. } => Self::InvalidArgument(e.to_string()),
            MarkError::Overruled { .. } => Self::BadConfiguration(e.to_string()),
            MarkError::Io { .. } => Self::Failed(e.to_string()),
        }
    }
}
