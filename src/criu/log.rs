//! What CRIU's log says went wrong.

use std::fs;
use std::path::Path;

/// The first error line of a CRIU log, without its time stamp: `Error (criu/sockets.c:628): …`.
pub fn first_error(path: &Path) -> Option<String> {
    pick(&String::from_utf8_lossy(&fs::read(path).ok()?))
}

/// The same of a log's text.
pub fn pick(text: &str) -> Option<String> {
    let line = text.lines().find(|l| l.contains("Error ("))?;
    line.find("Error (").map(|at| line[at..].trim().to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_error_counts() {
        let text = "(00.1) Warn  (criu/x.c:1): w\n(00.2)    712: Error (criu/sockets.c:628): Can't get 1:34 opt\n(00.3) Error (b): later\n";
        assert_eq!(super::pick(text).as_deref(), Some("Error (criu/sockets.c:628): Can't get 1:34 opt"));
        assert_eq!(super::pick("(00.1) all well\n"), None);
    }
}
