//! Which Debian mirror this host uses, read from its own apt sources.

use std::path::Path;

/// Where Debian and its security updates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The archive itself.
    pub debian: String,
    /// The security archive.
    pub security: String,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { debian: "http://deb.debian.org/debian".into(), security: "http://deb.debian.org/debian-security".into() }
    }
}

/// The host's mirror, or Debian's default when the host is not a Debian or names none.
pub fn of_host() -> Mirror {
    let mut texts = vec![read(Path::new("/etc/apt/sources.list"))];
    if let Ok(dir) = std::fs::read_dir("/etc/apt/sources.list.d") {
        let enabled = |path: &Path| path.extension().is_some_and(|ext| ext == "list" || ext == "sources");
        texts.extend(dir.flatten().map(|entry| entry.path()).filter(|path| enabled(path)).map(|path| read(&path)));
    }
    from_texts(&texts)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn from_texts(texts: &[String]) -> Mirror {
    let uris: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.split('#').next().unwrap_or_default())
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .map(|uri| uri.trim_end_matches('/'))
        .collect();
    let named = |name: &str| uris.iter().find(|uri| uri.ends_with(name)).map(|uri| (*uri).to_owned());
    let default = Mirror::default();
    Mirror {
        debian: named("/debian").unwrap_or(default.debian),
        security: named("/debian-security").unwrap_or(default.security),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_comments_are_not() {
        let one_line = "# deb http://old.example/debian x main\ndeb http://a.example/debian/ trixie main\n".to_owned();
        let deb822 = "Types: deb\nURIs: http://b.example/debian-security\nSuites: trixie-security\n".to_owned();
        let mirror = from_texts(&[one_line, deb822]);
        assert_eq!(mirror.debian, "http://a.example/debian");
        assert_eq!(mirror.security, "http://b.example/debian-security");
    }

    #[test]
    fn a_host_without_sources_gets_the_default() {
        assert_eq!(from_texts(&[]), Mirror::default());
    }
}
