//! Runs the real server on this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

struct Running {
    process: Child,
    dir: TempDir,
    tcp: BufReader<TcpStream>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn connect(socket: &Path) -> UnixStream {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(e) => assert!(Instant::now() < until, "{}: {e}", socket.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, state) = (dir.path().join("run"), dir.path().join("lib"));
    for directory in [&runtime, &state] {
        std::fs::create_dir(directory).unwrap();
    }
    let process = Command::new(env!("CARGO_BIN_EXE_kup-testserver"))
        .env("RUNTIME_DIRECTORY", &runtime)
        .env("STATE_DIRECTORY", &state)
        .env("KUP_TESTSERVER_PORT", "0")
        .env("KUP_TESTSERVER_HEAP_MIB", "2")
        .spawn()
        .unwrap();
    let mut control = BufReader::new(connect(&runtime.join("control.sock")));
    control.get_mut().write_all(b"state\n").unwrap();
    let mut line = String::new();
    control.read_line(&mut line).unwrap();
    let state: Value = serde_json::from_str(&line).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", state["port"].as_u64().unwrap() as u16)).unwrap();
    Running { process, dir, tcp: BufReader::new(tcp) }
}

impl Running {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.tcp.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    fn ask(&mut self, question: &str) -> String {
        self.tcp.get_mut().write_all(format!("{question}\n").as_bytes()).unwrap();
        self.line()
    }

    /// The lines of `check` that are not `ok`.
    fn failures(&mut self) -> Vec<String> {
        let mut line = self.ask("check");
        let (mut failures, mut items) = (Vec::new(), 0);
        while line != "." {
            items += 1;
            if !line.starts_with("ok ") {
                failures.push(line);
            }
            line = self.line();
        }
        assert!(items >= 15, "{items} items");
        failures
    }

    fn state(&mut self) -> Value {
        serde_json::from_str(&self.ask("state")).unwrap()
    }
}

#[test]
fn answers_and_is_fit() {
    let mut server = start();
    assert_eq!(server.ask("ping"), "pong");
    assert_eq!(server.ask("set a b c"), "ok");
    assert_eq!(server.ask("get a"), "value b c");
    assert_eq!(server.ask("get b"), "none");
    assert_eq!(server.ask("log a line for the journal"), "ok");
    assert_eq!(server.ask("check heap"), "ok heap");
    assert!(server.ask("check nothing").starts_with("error: "));
    for _ in 0..20 {
        assert_eq!(server.ask("check allocator"), "ok allocator");
    }
    assert!(server.ask("nonsense").starts_with("error: "));
    let before: u64 = server.ask("count").parse().unwrap();
    assert_eq!(server.ask("count"), (before + 1).to_string());
    for _ in 0..3 {
        assert_eq!(server.failures(), [""; 0]);
    }
    let state = server.state();
    assert_eq!(state["pid"], server.process.id());
    assert_eq!(state["items"]["clocks"]["monotonic"]["max_step_back_ns"], 0);
    assert!(state["tids"].as_array().unwrap().len() > 8, "{state}");
}

#[test]
fn streams() {
    let mut server = start();
    let began = Instant::now();
    assert_eq!(server.ask("big 100001 200000"), "big 100001");
    let mut bytes = vec![0; 100_001];
    server.tcp.read_exact(&mut bytes).unwrap();
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(server.line(), "");
    assert!(server.line().starts_with("sum "));
    assert_eq!(server.ask("ping"), "pong");
}

/// A check that cannot fail proves nothing: take things away and see that it tells.
#[test]
fn notices_what_is_lost() {
    let mut server = start();
    let path = |name: &str| server.dir.path().join(name);
    std::fs::remove_file(path("run/testserver.pid")).unwrap();
    std::fs::write(path("lib/requests.log"), "").unwrap();
    let state = server.state();
    let child = Pid::from_raw(state["items"]["child"]["pid"].as_i64().unwrap() as i32);
    let twin = Pid::from_raw(state["items"]["twin"]["pid"].as_i64().unwrap() as i32);
    kill(child, Signal::SIGKILL).unwrap();
    kill(twin, Signal::SIGKILL).unwrap();
    kill(Pid::from_raw(server.process.id() as i32), Signal::SIGUSR1).unwrap();
    std::fs::write(format!("/proc/{}/oom_score_adj", server.process.id()), "500").unwrap();
    let failures = server.failures();
    let names: Vec<&str> = failures.iter().map(|l| l[5..].split(':').next().unwrap()).collect();
    assert_eq!(names, ["signals", "twin", "child", "locks", "log", "runtime", "process"], "{failures:#?}");
}
