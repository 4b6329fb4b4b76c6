//! Talking to PID 1: over its private socket, which is there from its start on, or over the system bus.

mod ahead;
mod private;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use zbus::message::Message;
use zbus::wire::{OwnedObjectPath, OwnedVariant};

pub use ahead::{DROP_IN, Start, USERS};
use private::Private;

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const I_MANAGER: &str = "org.freedesktop.systemd1.Manager";
const I_UNIT: &str = "org.freedesktop.systemd1.Unit";
const I_SERVICE: &str = "org.freedesktop.systemd1.Service";
const I_PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// How long the bus may take to come up, where there is no other way.
const BUS_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Name, description, load state, active state, sub state, following, object, and of its job number, type and object.
type Unit = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The object that a unit is to systemd, which loads it where it is asked for (sd_bus_path_encode(3)).
fn path_of(unit: &str) -> String {
    let plain = |at: usize, byte: u8| byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit());
    let label: String = unit
        .bytes()
        .enumerate()
        .map(|(at, b)| if plain(at, b) { char::from(b).to_string() } else { format!("_{b:02x}") })
        .collect();
    format!("/org/freedesktop/systemd1/unit/{label}")
}

/// A connection to PID 1. Calls block; clones share it.
#[derive(Debug, Clone)]
pub struct Systemd {
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Private(Arc<Private>),
    Bus(zbus::Connection),
}

/// What systemd knows of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `active`, `inactive`, `activating`, `deactivating`, `failed`.
    pub active: String,
    /// Its main process, 0 where it has none.
    pub main_pid: i32,
    /// Its control group below /sys/fs/cgroup, such as `/system.slice/redis.service`; empty where it has none.
    pub cgroup: String,
}

/// Where a service keeps things that a new boot begins without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volatile {
    /// RuntimeDirectory=, below /run.
    pub runtime_directories: Vec<String>,
    /// Whether /tmp and /var/tmp are its own.
    pub private_tmp: bool,
    /// PIDFile=, an absolute path; empty where it has none.
    pub pid_file: String,
}

impl Volatile {
    /// The absolute paths, as the service sees them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.runtime_directories.iter().map(|d| format!("/run/{d}")).collect();
        if self.private_tmp {
            paths.extend(["/tmp".to_string(), "/var/tmp".to_string()]);
        }
        if !self.pid_file.is_empty() && !paths.iter().any(|p| self.pid_file.starts_with(&format!("{p}/"))) {
            paths.push(self.pid_file.clone());
        }
        paths
    }
}

impl Systemd {
    /// Connects to PID 1's own socket, or, where that cannot be, to the bus; waits for the bus where it is still starting.
    ///
    /// # Errors
    /// When neither is there.
    pub fn connect() -> Result<Self> {
        match Private::connect(Path::new(private::SOCKET)) {
            Ok(private) => Ok(Self { way: Way::Private(Arc::new(private)) }),
            Err(e) => {
                tracing::warn!("{e:#}; the system bus is the other way");
                Self::over_the_bus(Instant::now() + BUS_WITHIN)
            }
        }
    }

    fn over_the_bus(deadline: Instant) -> Result<Self> {
        loop {
            match zbus::block_on(zbus::Connection::system()) {
                Ok(connection) => return Ok(Self { way: Way::Bus(connection) }),
                Err(_) if Instant::now() < deadline => sleep(POLL),
                Err(e) => return Err(e).context("cannot reach PID 1, neither by its own socket nor by the system bus"),
            }
        }
    }

    fn call<B, R>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<R>
    where
        B: serde::Serialize + zbus::wire::Type,
        R: for<'d> serde::Deserialize<'d> + zbus::wire::Type,
    {
        match &self.way {
            Way::Private(private) => {
                let call = Message::method_call(path, method).destination(DESTINATION).interface(interface);
                private.call(&call.build(body)?)
            }
            Way::Bus(bus) => {
                let reply = zbus::block_on(bus.call_method(Some(DESTINATION), path, Some(interface), method, body))?;
                Ok(reply.body().deserialize()?)
            }
        }
    }

    /// Calls a method of the manager.
    fn manager<B, R>(&self, method: &str, body: &B) -> Result<R>
    where
        B: serde::Serialize + zbus::wire::Type,
        R: for<'d> serde::Deserialize<'d> + zbus::wire::Type,
    {
        self.call(MANAGER, I_MANAGER, method, body).with_context(|| format!("systemd refuses {method}"))
    }

    fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        let value: OwnedVariant = self
            .call(path, I_PROPERTIES, "Get", &(interface, name))
            .with_context(|| format!("systemd does not tell {name} of {path}"))?;
        Ok(T::try_from(value)?)
    }

    /// Everything that systemd tells of `unit` behind `interface`.
    fn properties(&self, unit: &str, interface: &str) -> Result<HashMap<String, OwnedVariant>> {
        let all = self.call(&path_of(unit), I_PROPERTIES, "GetAll", &(interface,));
        all.with_context(|| format!("systemd does not tell what {unit} is like"))
    }

    /// A property of the manager.
    ///
    /// # Errors
    /// When systemd does not know it.
    pub fn manager_property<T>(&self, name: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::error::Error + Send + Sync + 'static,
    {
        self.property(MANAGER, I_MANAGER, name)
    }

    /// Sets a property of the manager.
    ///
    /// # Errors
    /// What systemd says.
    pub fn set_manager_property(&self, name: &str, value: zbus::Variant<'_>) -> Result<()> {
        let set = self.call(MANAGER, I_PROPERTIES, "Set", &(I_MANAGER, name, value));
        set.with_context(|| format!("systemd does not set {name}"))
    }

    /// State, main process and control group of `unit`.
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn status(&self, unit: &str) -> Result<Status> {
        let path = path_of(unit);
        let main_pid: u32 = self.property(&path, I_SERVICE, "MainPID")?;
        Ok(Status {
            active: self.property(&path, I_UNIT, "ActiveState")?,
            main_pid: main_pid as i32,
            cgroup: self.property(&path, I_SERVICE, "ControlGroup")?,
        })
    }

    /// The state of `unit` as [`Status::active`] has it, and whether a job is queued for it: one question, to be asked often.
    ///
    /// # Errors
    /// What systemd says.
    pub fn activity(&self, unit: &str) -> Result<(String, bool)> {
        let listed =
            self.listed(vec![unit])?.into_iter().next().with_context(|| format!("systemd does not know {unit}"))?;
        Ok((listed.3, listed.7 != 0))
    }

    fn listed(&self, units: Vec<&str>) -> Result<Vec<Unit>> {
        self.manager("ListUnitsByNames", &(units,))
    }

    /// Those of `units` that a job is queued for. Of a few, to be asked often: a boot has hundreds of jobs.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn queued_of(&self, units: &HashSet<&str>) -> Result<HashSet<String>> {
        let listed = self.listed(units.iter().copied().collect())?;
        Ok(listed.into_iter().filter(|unit| unit.7 != 0).map(|unit| unit.0).collect())
    }

    /// What `unit` keeps on volatile file systems.
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn volatile(&self, unit: &str) -> Result<Volatile> {
        let path = path_of(unit);
        Ok(Volatile {
            runtime_directories: self.property(&path, I_SERVICE, "RuntimeDirectory")?,
            private_tmp: self.property(&path, I_SERVICE, "PrivateTmp")?,
            pid_file: self.property(&path, I_SERVICE, "PIDFile")?,
        })
    }

    /// Whether a job is queued for `unit` (any kind of unit).
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn has_job(&self, unit: &str) -> Result<bool> {
        let path = path_of(unit);
        let (id, _): (u32, OwnedObjectPath) = self.property(&path, I_UNIT, "Job")?;
        Ok(id != 0)
    }

    /// Asks for `unit` to be started; does not wait.
    ///
    /// # Errors
    /// What systemd says.
    pub fn start(&self, unit: &str) -> Result<()> {
        self.manager::<_, OwnedObjectPath>("StartUnit", &(unit, "replace")).map(drop)
    }

    /// Starts `unit` and waits until it is active.
    ///
    /// # Errors
    /// When it fails or takes longer than `timeout`.
    pub fn start_and_wait(&self, unit: &str, timeout: Duration) -> Result<()> {
        self.start(unit)?;
        let deadline = Instant::now() + timeout;
        loop {
            match self.activity(unit)?.0.as_str() {
                "active" => return Ok(()),
                "failed" => bail!("{unit} failed; see 'journalctl -u {unit}'"),
                _ if Instant::now() > deadline => bail!("{unit} did not start within {} s", timeout.as_secs()),
                _ => sleep(POLL),
            }
        }
    }

    /// Asks for `unit` to be started now, without what it is ordered after or wants; does not wait for it.
    ///
    /// # Errors
    /// What systemd says.
    pub fn start_alone(&self, unit: &str) -> Result<()> {
        self.manager::<_, OwnedObjectPath>("StartUnit", &(unit, "ignore-dependencies")).map(drop)
    }

    /// What `unit` is ordered after.
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn after(&self, unit: &str) -> Result<Vec<String>> {
        self.property(&path_of(unit), I_UNIT, "After")
    }

    /// What is ordered after `unit`.
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn before(&self, unit: &str) -> Result<Vec<String>> {
        self.property(&path_of(unit), I_UNIT, "Before")
    }

    /// Is `unit` a service with a main process that can be started again when it was stopped?
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn is_daemon(&self, unit: &str) -> Result<bool> {
        if !unit.ends_with(".service") {
            return Ok(false);
        }
        let main_pid: u32 = self.property(&path_of(unit), I_SERVICE, "MainPID")?;
        Ok(main_pid != 0 && self.can_start(unit)?)
    }

    /// Can `unit` be started again when it was stopped?
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn can_start(&self, unit: &str) -> Result<bool> {
        let path = path_of(unit);
        // A transient unit is forgotten with its end.
        let transient: bool = self.property(&path, I_UNIT, "Transient")?;
        Ok(!transient && self.property(&path, I_UNIT, "CanStart")?)
    }

    /// When `unit` was stopped, microseconds of CLOCK_MONOTONIC; `None` where it runs or is about to. 0 where systemd knows of
    /// no time at which it was active.
    ///
    /// # Errors
    /// When systemd cannot load it.
    pub fn stopped_at(&self, unit: &str) -> Result<Option<u64>> {
        let path = path_of(unit);
        let state: String = self.property(&path, I_UNIT, "ActiveState")?;
        let left: u64 = self.property(&path, I_UNIT, "ActiveExitTimestampMonotonic")?;
        Ok(["inactive", "failed", "deactivating"].contains(&state.as_str()).then_some(left))
    }

    /// Asks for `unit` to be restarted; does not wait.
    ///
    /// # Errors
    /// What systemd says.
    pub fn restart(&self, unit: &str) -> Result<()> {
        self.manager::<_, OwnedObjectPath>("RestartUnit", &(unit, "replace")).map(drop)
    }

    /// Asks for `unit` to be stopped; does not wait.
    ///
    /// # Errors
    /// What systemd says.
    pub fn stop(&self, unit: &str) -> Result<()> {
        self.manager::<_, OwnedObjectPath>("StopUnit", &(unit, "replace")).map(drop)
    }

    /// Sends `signal` to the main process of `unit`.
    ///
    /// # Errors
    /// What systemd says; also where it has none.
    pub fn signal(&self, unit: &str, signal: Signal) -> Result<()> {
        self.manager("KillUnit", &(unit, "main", signal as i32))
    }

    /// `systemctl daemon-reload`: generators run, unit files are read again. Returns when it is done.
    ///
    /// # Errors
    /// What systemd says.
    pub fn reload(&self) -> Result<()> {
        self.manager("Reload", &())
    }

    /// Cancels every queued job, shutdown included.
    ///
    /// # Errors
    /// What systemd says.
    pub fn cancel_jobs(&self) -> Result<()> {
        self.manager("ClearJobs", &())
    }

    /// Names of all loaded units that are active and of a kind that ends with the shutdown.
    ///
    /// # Errors
    /// What systemd says.
    pub fn active_units(&self) -> Result<Vec<String>> {
        self.units_that_are(&["active"])
    }

    /// Names of all loaded units that have stopped, or are about to.
    ///
    /// # Errors
    /// What systemd says.
    pub fn stopped_units(&self) -> Result<Vec<String>> {
        self.units_that_are(&["inactive", "failed", "deactivating"])
    }

    fn units_that_are(&self, states: &[&str]) -> Result<Vec<String>> {
        let units: Vec<Unit> = self.manager("ListUnitsFiltered", &(states,))?;
        Ok(units.into_iter().map(|u| u.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn paths_as_systemd_makes_them() {
        let path = |label: &str| format!("/org/freedesktop/systemd1/unit/{label}");
        assert_eq!(path_of("redis-server.service"), path("redis_2dserver_2eservice"));
        assert_eq!(path_of("-.mount"), path("_2d_2emount"));
        assert_eq!(path_of("9p@a1\\x2d.service"), path("_39p_40a1_5cx2d_2eservice"));
    }
}
