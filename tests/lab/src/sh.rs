//! Running other programs: captured output, deadlines, errors that say what was run and what it said.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a program wrote and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
}

impl Output {
    /// Did it exit with 0?
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    /// Standard output without the white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// The cargo that this was started by; else the one in the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end, output captured; an exit code other than 0 is an error.
pub fn run(cmd: &mut Command) -> Result<String> {
    let shown = show(cmd);
    let out = capture(cmd, None, None)?;
    check(&shown, out)
}

/// As [`run`], but gives up (kills the program) after `limit`.
pub fn run_within(cmd: &mut Command, limit: Duration) -> Result<String> {
    let shown = show(cmd);
    let out = capture(cmd, None, Some(limit))?;
    check(&shown, out)
}

/// Runs with the terminal's own output; an exit code other than 0 is an error.
pub fn run_shown(cmd: &mut Command) -> Result<()> {
    let status = cmd.status().with_context(|| format!("cannot run {}", show(cmd)))?;
    if !status.success() {
        bail!("{} ended with {status}", show(cmd));
    }
    Ok(())
}

/// Turns an exit code other than 0 into an error that quotes the program's words.
pub fn check(shown: &str, out: Output) -> Result<String> {
    if !out.ok() {
        let said = [out.stderr.trim(), out.stdout.trim()].join("\n");
        bail!("`{shown}` ended with {}: {}", out.code, tail(said.trim(), 4000));
    }
    Ok(out.stdout)
}

/// Runs to the end and captures everything; only a failure to run it, or the deadline, is an error.
pub fn capture(cmd: &mut Command, stdin: Option<&[u8]>, limit: Option<Duration>) -> Result<Output> {
    let shown = show(cmd);
    cmd.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    cmd.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = cmd.spawn().with_context(|| format!("cannot run {shown}"))?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let writer = child.stdin.take().zip(stdin.map(<[u8]>::to_vec)).map(|(mut pipe, bytes)| {
        // A program that exits before it has read everything is judged by its exit code.
        std::thread::spawn(move || drop(pipe.write_all(&bytes)))
    });
    let status = wait(&mut child, limit)?;
    let Some(status) = status else {
        let said = [said_by_now(stderr), said_by_now(stdout)].join("\n");
        bail!("`{shown}` did not end within {:.0?}: {}", limit.unwrap_or_default(), tail(said.trim(), 3000));
    };
    if let Some(writer) = writer {
        writer.join().ok();
    }
    Ok(Output { stdout: joined(stdout), stderr: joined(stderr), code: status.code().unwrap_or(-1) })
}

/// Waits for the child; `None` after the deadline, the child then being dead.
pub fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(limit) = limit else { return Ok(Some(child.wait()?)) };
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error still belongs in the report.
            pipe.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

fn joined(thread: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
}

/// What a program that was killed had said. Children of its may live on and hold the pipe: nobody waits for those.
fn said_by_now(thread: JoinHandle<Vec<u8>>) -> String {
    std::thread::sleep(Duration::from_millis(100));
    if thread.is_finished() { joined(thread) } else { String::new() }
}

/// The command as one would type it.
pub fn show(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The last `max` bytes of a text, cut at a character.
pub fn tail(text: &str, max: usize) -> &str {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Puts a text between single quotes for a POSIX shell.
pub fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
