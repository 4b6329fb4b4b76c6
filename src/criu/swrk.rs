//! One `criu swrk` process and the conversation with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, setsockopt, shutdown, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use prost::Message;

use super::rpc::{Action, Options, Request, Response};
use crate::sys::spawn::Place;

/// How long CRIU and the task that it works in may both do nothing at all before it counts as hanging. It waits for a task
/// that it traces, at times for one that never stops (CRIU's issues 107 and 432, kernels and emulators): services would stand
/// still until the shutdown's end.
const QUIET: Duration = Duration::from_secs(30);
/// How long one that was killed may take to be gone.
const DEATH: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOOK: TimeVal = TimeVal::new(1, 0);

/// A running `criu swrk`. Dropping it kills CRIU; a dump that it had not finished is undone by CRIU's tasks being
/// released by the kernel, so that they run on.
#[derive(Debug)]
pub struct Swrk {
    child: Child,
    socket: OwnedFd,
    /// Whom it may wait for in vain.
    watched: Option<Watched>,
}

/// CRIU beside the task that it works in.
#[derive(Debug)]
struct Watched {
    pids: [i32; 2],
    within: Duration,
    /// How much of the processors both have had, and since when it is so much.
    had: (u64, Instant),
}

/// What to tell CRIU after a notification.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// `false` makes CRIU undo what it did.
    pub refuse: bool,
    /// With `query-ext-files`: more [`Options::external`].
    pub external: Vec<String>,
}

/// Why CRIU did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started, or the conversation broke.
    #[error("cannot talk to criu: {0}")]
    Io(io::Error),
    /// It ended without an answer.
    #[error("criu ended without an answer ({0})")]
    Died(String),
    /// It says no.
    #[error("criu: {message}")]
    Refused {
        /// What it says.
        message: String,
        /// An errno that tells more, or 0.
        errno: i32,
    },
    /// It waits for something that does not happen.
    #[error("criu did nothing for {0} s, and was ended")]
    Hangs(u64),
    /// It says what cannot be read.
    #[error("criu's answer cannot be read: {0}")]
    Decode(prost::DecodeError),
}

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<prost::DecodeError> for Error {
    fn from(e: prost::DecodeError) -> Self {
        Self::Decode(e)
    }
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Self {
        Self::Io(e.into())
    }
}

impl Swrk {
    /// Starts CRIU in `place`. The program is opened here and executed through its descriptor: inside the place it may
    /// not exist, or lie where execution is forbidden (NoExecPaths=).
    ///
    /// # Errors
    /// [`Error::Io`], with ENOENT where CRIU is not installed.
    pub fn start(criu: &Path, mut place: Place) -> Result<Self, Error> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let theirs = place.give(theirs)?;
        let program = place.give(File::open(criu)?.into())?;
        let mut command = Command::new(format!("/proc/self/fd/{program}"));
        command.args(["swrk", &theirs.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        place.apply(&mut command);
        Ok(Self { child: command.spawn()?, socket: ours, watched: None })
    }

    /// Gives it up, with [`Error::Hangs`], where neither it nor the task `pid`, in which it works, does anything for half a
    /// minute.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watched(self, pid: i32) -> Result<Self, Error> {
        self.watched_for(pid, QUIET)
    }

    fn watched_for(mut self, pid: i32, within: Duration) -> Result<Self, Error> {
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &LOOK)?;
        self.watched = Some(Watched { pids: [self.pid(), pid], within, had: (0, Instant::now()) });
        Ok(self)
    }

    /// Its PID.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Asks for `action` and answers CRIU's notifications with `on_notify` until it is done.
    ///
    /// # Errors
    /// [`Error`]; after a failed dump the tasks run on.
    pub fn run(
        &mut self,
        action: Action,
        options: Options,
        mut on_notify: impl FnMut(&str) -> Answer,
    ) -> Result<Response, Error> {
        self.say(&Request { action: action.into(), options: Some(options), notify_success: None })?;
        loop {
            let script = match self.hear()? {
                Said::Notification(script) => script,
                Said::Answer(answer) => {
                    // CRIU cleans up behind its answer: it is not to be killed before that.
                    let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
                    self.child.wait()?;
                    return answer;
                }
            };
            let answer = on_notify(&script);
            let extra = Options { images_dir_fd: -1, external: answer.external, ..Options::default() };
            self.say(&Request {
                action: Action::Notify.into(),
                options: Some(extra),
                notify_success: Some(!answer.refuse),
            })?;
        }
    }

    fn say(&mut self, request: &Request) -> Result<(), Error> {
        match send(self.socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::EPIPE) => Err(Error::Died(self.child.wait()?.to_string())),
            Err(e) => Err(e.into()),
        }
    }

    fn hear(&mut self) -> Result<Said, Error> {
        // One packet is one message; CRIU's are small (the longest part is an error line).
        let mut packet = vec![0; 64 << 10];
        // It waited for us until now.
        self.watched.iter_mut().for_each(|watched| watched.had.1 = Instant::now());
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if let Some(within) = self.watched.as_mut().and_then(Watched::is_quiet) {
                        return Err(Error::Hangs(within.as_secs()));
                    }
                }
                // It left without having read what it was told.
                Err(Errno::ECONNRESET) => break 0,
                result => break result?,
            }
        };
        if length == 0 {
            let status = self.child.wait()?;
            return Err(Error::Died(status.to_string()));
        }
        Said::read(&packet[..length])
    }
}

impl Watched {
    /// For how long, where that is too long. A task that goes on by itself says nothing of CRIU.
    fn is_quiet(&mut self) -> Option<Duration> {
        let [criu, task] = self.pids;
        let family = family(criu);
        let worked_in = tracer(task).filter(|tracer| family.contains(tracer)).map(|_| task);
        let had = family.iter().copied().chain(worked_in).filter_map(ticks).sum();
        if had != self.had.0 {
            self.had = (had, Instant::now());
        }
        (self.had.1.elapsed() >= self.within).then_some(self.within)
    }
}

/// `pid` and all that it has started: a pre-dump is done by a child.
fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        next += 1;
    }
    all
}

/// What proc_pid_stat(5) tells of `pid` from field 3 on, the first behind the name, which may hold anything.
fn stat(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, fields)| fields.to_owned())
}

/// Has `pid` still something that it holds?
fn is_alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| !fields.starts_with(['Z', 'X']))
}

/// Who traces `pid`.
fn tracer(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok())
}

/// What `pid` and the children that it has waited for have had of the processors (fields 14 to 17).
fn ticks(pid: i32) -> Option<u64> {
    Some(stat(pid)?.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// What a packet of CRIU's says.
#[derive(Debug)]
pub enum Said {
    /// It waits at the point of this name.
    Notification(String),
    /// It is done, or says no.
    Answer(Result<Response, Error>),
}

impl Said {
    /// Reads one packet.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn read(packet: &[u8]) -> Result<Self, Error> {
        let response = Response::decode(packet)?;
        Ok(if response.action == i32::from(Action::Notify) {
            Self::Notification(response.notify.and_then(|n| n.script).unwrap_or_default())
        } else if response.success {
            Self::Answer(Ok(response))
        } else {
            Self::Answer(Err(refused(&response)))
        })
    }
}

fn refused(response: &Response) -> Error {
    let said = String::from_utf8_lossy(response.cr_errmsg.as_deref().unwrap_or_default());
    let message = match said.trim() {
        "" => "it failed and did not say why; see its log",
        message => message,
    };
    Error::Refused { message: message.into(), errno: response.cr_errno.unwrap_or(0) }
}

impl Drop for Swrk {
    fn drop(&mut self) {
        // Whoever holds tasks lets go of them with its own end alone. One that has ended may have left its number to others.
        if let Ok(None) = self.child.try_wait() {
            let family = family(self.pid());
            for pid in &family {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            let begun = Instant::now();
            while family.iter().any(|pid| is_alive(*pid)) && begun.elapsed() < DEATH {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRIU quotes paths, and a path is any bytes: an answer that could not be read would get CRIU killed while it
    /// cleans up.
    #[test]
    fn an_error_that_is_no_text_is_an_answer() {
        let response = Response {
            action: Action::Dump.into(),
            cr_errno: Some(17),
            cr_errmsg: Some(b"Can't dump /tmp/\xff\n".into()),
            ..Response::default()
        };
        match Said::read(&response.encode_to_vec()).unwrap() {
            Said::Answer(Err(Error::Refused { message, errno })) => {
                assert_eq!((message.as_str(), errno), ("Can't dump /tmp/\u{fffd}", 17));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn silence_is_told() {
        let response = Response { cr_errmsg: Some(b" \n".into()), ..Response::default() };
        assert!(refused(&response).to_string().contains("did not say why"));
    }

    #[test]
    fn one_that_does_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        let run = |path: &Path| {
            // The task is this very program, which CRIU does not trace here: what it does does not count.
            let (ours, within) = (std::process::id() as i32, Duration::from_secs(2));
            let mut criu = Swrk::start(path, Place::default()).unwrap().watched_for(ours, within).unwrap();
            criu.run(Action::Dump, Options::default(), |_| Answer::default()).unwrap_err().to_string()
        };
        // It works for longer than it may rest.
        let begun = Instant::now();
        let busy = "#!/bin/sh\nend=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do :; done\n";
        assert!(run(&program("busy", busy)).contains("without an answer"));
        assert!(begun.elapsed() > Duration::from_secs(2));
        // So does a child of this one, as CRIU's children do.
        let begun = Instant::now();
        assert!(
            run(&program("parent", &busy.replacen("end=", "(end=", 1).replacen("done\n", "done) & wait\n", 1)))
                .contains("without")
        );
        assert!(begun.elapsed() > Duration::from_secs(2));
        let hangs = format!("#!/bin/sh\nsleep 100 & echo $! >{}/child; wait\n", dir.path().display());
        assert_eq!(run(&program("hangs", &hangs)), "criu did nothing for 2 s, and was ended");
        let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
        assert!(!is_alive(child.trim().parse().unwrap()), "its child lives");
    }

    /// Whoever writes to it first, or waits for its answer first, says the same of it, and says it once.
    #[test]
    fn one_that_dies_is_said_to_have_died() {
        for wait in [false, true] {
            let mut criu = Swrk::start(Path::new("/bin/false"), Place::default()).unwrap();
            if wait {
                while criu.child.try_wait().unwrap().is_none() {}
            }
            let error = criu.run(Action::Dump, Options::default(), |_| Answer::default()).unwrap_err();
            let text = format!("{:#}", anyhow::Error::from(error));
            assert_eq!(text, "criu ended without an answer (exit status: 1)");
        }
    }
}
