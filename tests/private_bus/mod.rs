//! A bus of our own with a real kupd on it, below a temporary root.
//!
//! The bus is a real dbus-daemon with the system bus's default policy and the policy that kup installs. systemd, which
//! cannot be had on a private bus, is played by [`Systemd`]: it takes the orders that kupd gives and, where the worker
//! would be started, runs a closure of the test.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kup::bus::proxy::ManagerProxy;
use kup::paths::Paths;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectServer, OwnedObjectPath};

/// How a unit's job ends.
#[derive(Clone, Copy)]
pub struct Ending {
    /// The job's result.
    pub job: &'static str,
    /// The unit's ActiveState after it.
    pub state: &'static str,
}

/// The worker did its work.
pub const DONE: Ending = Ending { job: "done", state: "inactive" };
/// The worker failed.
pub const FAILED: Ending = Ending { job: "failed", state: "failed" };

type Worker = Arc<dyn Fn(&Paths, &str) -> Ending + Send + Sync>;

/// Everything that one test needs; torn down when it is dropped.
pub struct Bench {
    dir: tempfile::TempDir,
    /// Where kupd reads and writes.
    pub paths: Paths,
    /// The bus.
    pub address: String,
    daemon: Running,
    kupd: Option<Running>,
    /// The connection of the stand-in for systemd.
    systemd: Connection,
    /// What systemd was asked for: `start UNIT`, `reload`.
    pub orders: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    /// A bus with kupd, on a machine with kernels 6.12.94 (running) and 6.12.107 and a marked `a.service`; `worker`
    /// plays the units that kupd starts.
    pub fn new(worker: impl Fn(&Paths, &str) -> Ending + Send + Sync + 'static) -> Self {
        let mut bench = Self::without_kupd(worker, "");
        let mut kupd = bench.command(env!("CARGO_BIN_EXE_kupd"));
        kupd.arg("--root").arg(bench.dir.path().join("root"));
        bench.kupd = Some(Running(kupd.spawn().unwrap()));
        let conn = bench.connect();
        zbus::block_on(async {
            let bus = zbus::fdo::DBusProxy::new(&conn).await.unwrap();
            let begun = Instant::now();
            while !bus.name_has_owner("org.kup1".try_into().unwrap()).await.unwrap() {
                assert!(begun.elapsed() < Duration::from_secs(20), "kupd does not get its name");
                sleep(Duration::from_millis(20));
            }
        });
        bench
    }

    /// The same without kupd; `services` goes into the bus's configuration.
    pub fn without_kupd(worker: impl Fn(&Paths, &str) -> Ending + Send + Sync + 'static, services: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.path().join("root");
        machine(&root);
        let (daemon, address) = dbus_daemon(dir.path(), services);
        let paths = Paths::below(root);
        let orders = Arc::default();
        let stand_in = Systemd { paths: paths.clone(), worker: Arc::new(worker), orders: Arc::clone(&orders), jobs: 0 };
        let systemd = zbus::block_on(
            zbus::connection::Builder::address(address.as_str())
                .serve_at("/org/freedesktop/systemd1", stand_in)
                .name("org.freedesktop.systemd1")
                .build(),
        );
        Self { dir, paths, address, daemon, kupd: None, systemd: systemd.unwrap(), orders }
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection to the bus.
    pub fn connect(&self) -> Connection {
        let builder = zbus::connection::Builder::address(self.address.as_str());
        zbus::block_on(builder.method_timeout(Duration::from_secs(30)).build()).unwrap()
    }

    /// The manager, with nothing cached.
    pub fn manager(&self) -> ManagerProxy<'static> {
        let conn = self.connect();
        let builder = ManagerProxy::builder(&conn).cache_properties(zbus::proxy::CacheProperties::No);
        zbus::block_on(builder.build()).unwrap()
    }

    /// A command that takes the private bus for the system bus.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    /// Runs `kup`.
    pub fn kup(&self, args: &[&str]) -> Output {
        self.command(env!("CARGO_BIN_EXE_kup")).args(args).output().unwrap()
    }

    /// Ends the bus, as a shutdown does.
    pub fn end_bus(&mut self) {
        self.daemon.0.kill().unwrap();
    }

    /// What systemd was asked for since the last time.
    pub fn orders(&self) -> Vec<String> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }
}

/// A process that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files of a machine.
fn machine(root: &Path) {
    let paths = Paths::below(root);
    for release in ["6.12.94", "6.12.107"] {
        write(&paths, &format!("/boot/vmlinuz-{release}"), "image");
        fs::create_dir_all(paths.at(format!("/lib/modules/{release}"))).unwrap();
    }
    write(&paths, "/proc/sys/kernel/osrelease", "6.12.94\n");
    write(&paths, "/usr/lib/systemd/system/a.service", "[Service]\nExecStart=/bin/a\n[X-KUP]\nKUPPreserve=yes\n");
    write(&paths, "/usr/lib/systemd/system/b.service", "[Service]\nExecStart=/bin/b\nPrivateUsers=yes\n");
    fs::create_dir_all(paths.run_dir()).unwrap();
}

/// Writes a file below the root.
pub fn write(paths: &Paths, path: &str, text: &str) {
    let path = paths.at(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Starts a dbus-daemon with the system bus's defaults (deny calls and names, unless a policy allows them).
fn dbus_daemon(dir: &Path, services: &str) -> (Running, String) {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("dbus/org.kup1.conf");
    let own = if nix::unistd::geteuid().is_root() { "" } else { r#"<allow own="org.kup1"/>"# };
    let config = dir.join("bus.conf");
    let text = format!(
        r#"<busconfig>
  <type>system</type>
  <listen>unix:path={dir}/bus</listen>
  <auth>EXTERNAL</auth>
  {services}
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <allow own="org.freedesktop.systemd1"/>
    <allow send_destination="org.freedesktop.systemd1"/>
    {own}
  </policy>
  <include>{policy}</include>
</busconfig>"#,
        dir = dir.display(),
        policy = policy.display(),
    );
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--nofork", "--nopidfile", "--print-address"]).arg(format!("--config-file={}", config.display()));
    let daemon = daemon.stdout(Stdio::piped()).spawn().expect("dbus-daemon has to be installed (package dbus)");
    let mut daemon = Running(daemon);
    // It prints its address once it listens.
    let mut address = String::new();
    BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
    assert!(address.starts_with("unix:"), "dbus-daemon does not listen");
    (daemon, address.trim().into())
}

/// Plays systemd.
struct Systemd {
    paths: Paths,
    worker: Worker,
    orders: Arc<Mutex<Vec<String>>>,
    jobs: u32,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Systemd {
    async fn start_unit(
        &mut self,
        name: String,
        mode: &str,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> OwnedObjectPath {
        assert_eq!(mode, "replace");
        self.jobs += 1;
        let job = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{}", self.jobs)).unwrap();
        self.orders.lock().unwrap().push(format!("start {name}"));
        let unit = unit_path(&name);
        // It may not be there yet.
        let _ = server.remove::<Unit, _>(&unit).await;
        server.at(&unit, Unit("activating")).await.unwrap();
        let (worker, paths, id, path) = (self.worker.clone(), self.paths.clone(), self.jobs, job.clone());
        let emitter = emitter.to_owned();
        std::thread::spawn(move || {
            let ending = worker(&paths, &name);
            zbus::block_on(async {
                let server = emitter.connection().object_server();
                server.interface::<_, Unit>(&unit).await.unwrap().get_mut().await.0 = ending.state;
                emitter.job_removed(id, path, &name, ending.job).await.unwrap();
            });
        });
        job
    }

    async fn load_unit(&self, name: &str, #[zbus(object_server)] server: &ObjectServer) -> OwnedObjectPath {
        let path = unit_path(name);
        // Where the unit is there already, it stays as it is.
        server.at(&path, Unit("active")).await.unwrap();
        path
    }

    fn subscribe(&self) {}

    fn reload(&self) {
        self.orders.lock().unwrap().push("reload".into());
    }

    #[zbus(signal)]
    async fn job_removed(
        emitter: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: &str,
        result: &str,
    ) -> zbus::Result<()>;
}

/// A unit with its ActiveState.
struct Unit(&'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> &str {
        self.0
    }

    #[zbus(property)]
    fn sub_state(&self) -> &str {
        "running"
    }
}

fn unit_path(name: &str) -> OwnedObjectPath {
    let escaped: String = name.bytes().map(|b| format!("_{b:02x}")).collect();
    OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/unit/{escaped}")).unwrap()
}

/// Where the introspection data is kept.
pub fn introspection_file(interface: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("dbus/{interface}.xml"))
}
