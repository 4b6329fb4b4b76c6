//! Is CRIU there, new enough for both kernels, and does it work here?

use std::path::Path;
use std::process::Command;

use crate::paths::Paths;
use crate::preflight::{Finding, canary};

/// Major and minor number of a version.
type Version = (u32, u32);

/// The oldest CRIU that is tried: with restartable sequences (glibc 2.35 and newer use them).
const OLDEST: Version = (3, 17);
/// From this CRIU on inet sockets can be dumped on [`NEW_SOCKETS_KERNEL`].
const NEW_SOCKETS_CRIU: Version = (4, 2);
/// From this kernel on getsockopt(SO_PASSCRED) fails for sockets that are no unix or netlink ones, so that older CRIUs
/// dump none of them (CRIU issue 2705).
const NEW_SOCKETS_KERNEL: Version = (6, 16);

pub fn ask(paths: &Paths, running: &str, target: Option<&str>) -> Vec<Finding> {
    let install = "install the package criu";
    let Some(program) = crate::criu::program() else {
        return vec![Finding::blocker("criu.missing", "CRIU is not installed").fix(install)];
    };
    let text = match version_text(&program) {
        Ok(text) => text,
        Err(e) => return vec![Finding::blocker("criu.missing", format!("CRIU does not run: {e}")).fix(install)],
    };
    let Some(version) = version(&text) else {
        return vec![Finding::blocker("criu.version", format!("CRIU's version is not understood: '{}'", text.trim()))];
    };
    let mut found: Vec<Finding> = old(version).into_iter().chain(sockets(version, running, target)).collect();
    if !found.iter().any(|f| f.severity == crate::preflight::Severity::Blocker)
        && let Err(e) = canary::sing(paths, &program, running, text.trim())
    {
        let message = format!("CRIU cannot dump and restore a small process with a TCP connection here: {e:#}");
        found.push(Finding::blocker("criu.canary", message).fix("install the newest criu for this kernel"));
    }
    found
}

fn version_text(program: &Path) -> std::io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_string())
}

/// `Version: 4.1.1`, or with `-dirty` and the like behind it.
fn version(text: &str) -> Option<Version> {
    release(text.trim().strip_prefix("Version:")?.trim().trim_start_matches('v'))
}

/// The first two numbers of `6.12.94+deb13-cloud-amd64`.
fn release(text: &str) -> Option<Version> {
    let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let mut parts = text.split('.');
    let major = number(parts.next()?)?;
    Some((major, parts.next().and_then(number).unwrap_or(0)))
}

fn old((major, minor): Version) -> Option<Finding> {
    ((major, minor) < OLDEST).then(|| {
        let message = format!("CRIU {major}.{minor} is too old; {}.{} is the oldest that works", OLDEST.0, OLDEST.1);
        Finding::blocker("criu.version", message).fix("install a newer criu")
    })
}

fn sockets(criu: Version, running: &str, target: Option<&str>) -> Option<Finding> {
    if criu >= NEW_SOCKETS_CRIU {
        return None;
    }
    let is_new = |kernel: &str| release(kernel).is_some_and(|v| v >= NEW_SOCKETS_KERNEL);
    let fix = "install criu 4.2 or newer first";
    let (major, minor) = criu;
    if is_new(running) {
        let message = format!("CRIU {major}.{minor} dumps no network socket on kernel {running}");
        return Some(Finding::blocker("criu.inet-6.16", message).fix(fix));
    }
    target.filter(|t| is_new(t)).map(|target| {
        let message =
            format!("CRIU {major}.{minor} dumps no network socket on kernel {target}: the update after this one fails");
        Finding::warning("criu.inet-6.16", message).fix(fix)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn versions() {
        assert_eq!(version("Version: 4.1.1"), Some((4, 1)));
        assert_eq!(version("Version: 4.2-dirty\n"), Some((4, 2)));
        assert_eq!(version("criu?"), None);
        assert_eq!(release("6.12.94+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(release("7-rc1"), Some((7, 0)));
        assert!(old((3, 16)).is_some() && old((3, 17)).is_none() && old((4, 1)).is_none());
    }

    #[test]
    fn network_sockets_of_new_kernels() {
        let ask = |criu, running, target| sockets(criu, running, target).map(|f| f.severity);
        assert_eq!(ask((4, 1), "6.12.1", Some("6.12.2")), None);
        assert_eq!(ask((4, 1), "6.12.1", Some("6.16.0")), Some(Severity::Warning));
        assert_eq!(ask((4, 1), "6.17.1", Some("6.12.2")), Some(Severity::Blocker));
        assert_eq!(ask((4, 2), "6.17.1", Some("7.0")), None);
        assert_eq!(ask((4, 1), "6.9.1", None), None);
    }
}
