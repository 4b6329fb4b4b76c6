//! What kup asks of systemd over D-Bus (org.freedesktop.systemd1(5)).

use std::time::Duration;

use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};
use zruntime::SharedRuntime;

use super::{Error, next};

/// The few methods of systemd's manager that are needed.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn subscribe(&self) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

/// The properties of a unit that are needed.
#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait SystemdUnit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn sub_state(&self) -> zbus::Result<String>;
}

/// What systemd knows of a unit.
pub struct UnitStatus {
    /// `active`, `activating`, `failed`, …
    pub active: String,
    /// `running`, `exited`, …
    pub sub: String,
}

/// Asks systemd about `unit`, loading it where needed.
///
/// # Errors
/// When systemd does not answer.
pub async fn status(conn: &Connection, unit: &str) -> zbus::Result<UnitStatus> {
    let path = SystemdProxy::new(conn).await?.load_unit(unit).await?;
    let proxy = SystemdUnitProxy::builder(conn).path(path).cache_properties(CacheProperties::No).build().await?;
    Ok(UnitStatus { active: proxy.active_state().await?, sub: proxy.sub_state().await? })
}

/// Lets systemd read its unit files again and run its generators.
///
/// # Errors
/// When systemd does not answer or refuses.
pub async fn reload(conn: &Connection) -> Result<(), Error> {
    let done = async { SystemdProxy::new(conn).await?.reload().await }.await;
    done.map_err(|e| Error::Failed(format!("systemd did not reload: {e}; run 'systemctl daemon-reload'")))
}

/// Starts `unit` and does not wait for the end of its job.
///
/// # Errors
/// When systemd refuses, or does not know the unit.
pub async fn start(conn: &Connection, unit: &str) -> Result<(), Error> {
    let started = async { SystemdProxy::new(conn).await?.start_unit(unit, "replace").await }.await;
    started.map(drop).map_err(|e| Error::Failed(format!("{unit} cannot be started: {e}")))
}

/// Starts `unit` and waits until it has done its work: until its job is removed and, for a unit whose job ends
/// before its process does, until that has ended, too.
///
/// # Errors
/// When it cannot be started or fails; the text names the unit and where to look.
pub async fn run(conn: &Connection, unit: &str) -> Result<(), Error> {
    let failed = |why: String| Error::Failed(format!("{unit} {why}; 'journalctl -u {unit}' says why"));
    let result = job(conn, unit).await.map_err(|e| Error::Failed(format!("{unit} cannot be started: {e}")))?;
    if result != "done" {
        return Err(failed(if result == "failed" { "failed".into() } else { format!("ended as '{result}'") }));
    }
    loop {
        let now = status(conn, unit).await.map_err(|e| failed(format!("cannot be watched ({e})")))?;
        match (now.active.as_str(), now.sub.as_str()) {
            ("failed", _) => return Err(failed("failed".into())),
            ("inactive", _) | ("active", "exited") => return Ok(()),
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Starts `unit` and returns its job's result: `done`, `failed`, `canceled`, `timeout`, `dependency`, `skipped`.
async fn job(conn: &Connection, unit: &str) -> zbus::Result<String> {
    let systemd = SystemdProxy::new(conn).await?;
    // Without a subscriber systemd does not send JobRemoved. Listen first: the job may be over when the call returns.
    match systemd.subscribe().await {
        Err(zbus::Error::MethodError(name, ..)) if name == "org.freedesktop.systemd1.AlreadySubscribed" => {}
        other => other?,
    }
    let mut removed = systemd.receive_job_removed().await?;
    let job = systemd.start_unit(unit, "replace").await?;
    while let Some(signal) = next(&mut removed).await {
        let args = signal.args()?;
        if *args.job() == job {
            return Ok(args.result().clone());
        }
    }
    Err(zbus::Error::Failure("the connection to the bus was lost".into()))
}

/// Waits on the runtime of this thread.
pub async fn sleep(duration: Duration) {
    match SharedRuntime::current() {
        Ok(runtime) => runtime.sleep(duration).await,
        // The runtime lacks a file descriptor: wait all the same, rather than spin.
        Err(_) => std::thread::sleep(duration),
    }
}
