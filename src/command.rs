//! Running other programs to their end.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` with `input` as its standard input, and gives its standard output.
///
/// # Errors
/// When it cannot be started or ends with another code than 0; with what it said then.
pub fn feed(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    // Dropped, and so closed, at the end of the statement. One that does not read all of it fails by itself.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Runs `program` to its end; gives its standard output. What it says goes to the debug log, and into the error where it
/// fails.
///
/// # Errors
/// When it cannot be run or fails.
pub fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let name = program.display();
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for line in said.lines() {
        tracing::debug!("{name}: {line}");
    }
    if !output.status.success() {
        let last: Vec<_> = said.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect();
        bail!("{name} failed ({}): {}", output.status, last.join(" | "));
    }
    Ok(stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_hold_what_was_said() {
        let shell = Path::new("/bin/sh");
        assert_eq!(run(shell, &["-c", "echo fine; echo aside >&2"]).unwrap(), "fine\n");
        let e = run(shell, &["-c", "echo first; echo no space left >&2; exit 3"]).unwrap_err().to_string();
        assert!(e.contains("no space left") && e.contains("exit status: 3"), "{e}");
        assert!(run(Path::new("/nonexistent"), &[]).unwrap_err().to_string().contains("cannot run /nonexistent"));
    }
}
