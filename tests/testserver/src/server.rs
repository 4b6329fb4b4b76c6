//! The server: makes all state, listens, and answers.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use libsystemd::daemon::{NotifyState, notify};
use serde_json::{Value, json};

use crate::Config;
use crate::items::{self, Item, Log, control_socket};
use crate::protocol::serve;

/// What all connections share.
pub struct Server {
    /// Random at each start: the same id means that no new process answers.
    start: String,
    port: u16,
    requests: AtomicU64,
    values: Mutex<HashMap<String, String>>,
    items: Mutex<Vec<Box<dyn Item>>>,
    log: Arc<Log>,
}

/// Runs until it is killed.
pub fn run(config: Config) -> Result<()> {
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let start = format!("{:016x}", u64::from_le_bytes(random));
    let log = Arc::new(Log::new(&config.state)?);
    log.append(&format!("start {start}"))?;
    let items = items::all(&config, log.clone())?;
    let control = listen(&control_socket(&config.runtime))?;
    let tcp = TcpListener::bind(("0.0.0.0", config.port)).with_context(|| format!("port {}", config.port))?;
    let server = Arc::new(Server {
        start,
        port: tcp.local_addr()?.port(),
        requests: AtomicU64::new(0),
        values: Mutex::default(),
        items: Mutex::new(items),
        log,
    });
    let theirs = server.clone();
    thread::Builder::new().name("control".into()).spawn(move || {
        let streams = control.incoming().flatten();
        streams.for_each(|s| accept(&theirs, s.try_clone(), s));
    })?;
    let report = server.check(|_| true);
    ensure!(!report.contains("FAIL"), "not even fit at the start:\n{report}");
    println!("start {} on port {}", server.start, server.port);
    notify(false, &[NotifyState::Ready])?;
    tcp.incoming().flatten().for_each(|s| accept(&server, s.try_clone(), s));
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path).with_context(|| format!("{}", path.display()))
}

/// Gives a connection a thread of its own.
fn accept(
    server: &Arc<Server>,
    reader: std::io::Result<impl Read + Send + 'static>,
    writer: impl Write + Send + 'static,
) {
    let server = server.clone();
    let thread = thread::Builder::new().name("connection".into()).spawn(move || {
        let result = reader.and_then(|reader| serve(&server, BufReader::new(reader), writer));
        if let Err(e) = result {
            eprintln!("a connection ended: {e}");
        }
    });
    if let Err(e) = thread {
        eprintln!("no thread for a connection: {e}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Counts a request.
    pub fn counted(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<String> {
        lock(&self.values).get(key).cloned()
    }

    /// Gives `key` a value.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.log.append(&format!("set {key} {value}"))?;
        lock(&self.values).insert(key.into(), value.into());
        Ok(())
    }

    /// One line for each item of `which`, by its name.
    pub fn check(&self, which: impl Fn(&str) -> bool) -> String {
        let line = |item: &mut Box<dyn Item>| match item.check() {
            Ok(()) => format!("ok {}\n", item.name()),
            Err(e) => format!("FAIL {}: {}\n", item.name(), format!("{e:#}").replace('\n', " ")),
        };
        lock(&self.items).iter_mut().filter(|item| which(item.name())).map(line).collect()
    }

    /// The facts.
    pub fn state(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            lock(&self.items).iter().filter_map(|i| Some((i.name().to_string(), i.facts()?))).collect();
        let tids = |dir: fs::ReadDir| -> Vec<i32> {
            let mut tids: Vec<i32> = dir.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
            tids.sort_unstable();
            tids
        };
        json!({
            "start": self.start,
            "pid": std::process::id(),
            "port": self.port,
            "requests": self.requests(),
            "tids": fs::read_dir("/proc/self/task").map(tids).unwrap_or_default(),
            "items": facts,
        })
    }
}
