//! Open file descriptors, from /proc/PID/fd and /proc/PID/fdinfo.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{InspectError, read_text};

/// What the kernel appends to the name of a file that has none any more.
pub(super) const DELETED: &str = " (deleted)";

/// One open file descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fd {
    /// Its number.
    pub fd: i32,
    /// What it is.
    pub kind: FdKind,
    /// open(2) flags.
    pub flags: i32,
    /// Mount id.
    pub mnt_id: i32,
    /// Inode, as stat(2) gives it; for a socket the number that the socket tables use.
    pub ino: u64,
    /// Device of the file system, as stat(2) gives it.
    pub dev: u64,
    /// Links; 0 for a file without a name.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
}

/// What a descriptor refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdKind {
    /// A regular file.
    File {
        /// Path as the process sees it; the last one where it is deleted.
        path: PathBuf,
        /// Whether that name is gone.
        deleted: bool,
    },
    /// A directory.
    Directory {
        /// Path as the process sees it.
        path: PathBuf,
        /// Whether that name is gone.
        deleted: bool,
    },
    /// A device node.
    Device {
        /// Path as the process sees it.
        path: PathBuf,
        /// Whether it is a block device.
        block: bool,
        /// Major number.
        major: u64,
        /// Minor number.
        minor: u64,
    },
    /// A named pipe.
    Fifo {
        /// Path as the process sees it.
        path: PathBuf,
    },
    /// A pipe(2).
    Pipe,
    /// A socket.
    Socket {
        /// The kernel's name of its protocol: `TCP`, `TCPv6`, `UDP`, `UNIX`, `UNIX-STREAM`, `NETLINK`, `PACKET`, …
        protocol: String,
    },
    /// A memfd_create(2) file.
    Memfd {
        /// Its name.
        name: String,
    },
    /// A namespace file, such as `net:[4026531840]`.
    Namespace {
        /// As the kernel names it.
        name: String,
    },
    /// Any other object without a name in the file system: `eventfd`, `eventpoll`, `timerfd`, `signalfd`, `inotify`,
    /// `fanotify`, `io_uring`, `userfaultfd`, `pidfd`, `perf_event`, `bpf-map`, …
    Anon {
        /// The kernel's name of it, without brackets.
        name: String,
    },
}

impl Fd {
    /// The path, for what has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.kind {
            FdKind::File { path, .. } | FdKind::Directory { path, .. } => Some(path),
            FdKind::Device { path, .. } | FdKind::Fifo { path } => Some(path),
            _ => None,
        }
    }

    /// Whether it is a file or directory without a name.
    pub fn is_deleted(&self) -> bool {
        matches!(self.kind, FdKind::File { deleted: true, .. } | FdKind::Directory { deleted: true, .. })
    }

    /// Whether it is an [`FdKind::Anon`] called `name`.
    pub fn is_anon(&self, name: &str) -> bool {
        matches!(&self.kind, FdKind::Anon { name: n } if n == name)
    }
}

/// All descriptors of the process at `dir` (/proc/PID), by number; those that are closed meanwhile are left out.
pub(super) fn read(dir: &Path) -> Result<Vec<Fd>, InspectError> {
    let fd_dir = dir.join("fd");
    let entries = std::fs::read_dir(&fd_dir).map_err(InspectError::read(&fd_dir))?;
    let numbers = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let mut fds = Vec::new();
    for fd in numbers {
        match one(dir, fd) {
            Ok(found) => fds.push(found),
            Err(e) if e.is_gone() => {}
            Err(e) => return Err(e),
        }
    }
    fds.sort_unstable_by_key(|f| f.fd);
    Ok(fds)
}

fn one(dir: &Path, fd: i32) -> Result<Fd, InspectError> {
    let path = dir.join(format!("fd/{fd}"));
    let target = std::fs::read_link(&path).map_err(InspectError::read(&path))?.to_string_lossy().into_owned();
    let meta = std::fs::metadata(&path).map_err(InspectError::read(&path))?;
    let info_path = dir.join(format!("fdinfo/{fd}"));
    let (flags, mnt_id) = fdinfo(&read_text(&info_path)?).ok_or(InspectError::Form { path: info_path })?;
    let kind = if meta.file_type().is_socket() {
        FdKind::Socket { protocol: protocol(&path).map_err(InspectError::read(&path))? }
    } else {
        classify(&target, &meta, || is_literal(dir, &target, &meta))
    };
    Ok(Fd { fd, kind, flags, mnt_id, ino: meta.ino(), dev: meta.dev(), nlink: meta.nlink(), size: meta.size() })
}

/// `flags` (octal) and `mnt_id` of proc_pid_fdinfo(5).
pub fn fdinfo(text: &str) -> Option<(i32, i32)> {
    let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    let flags = i32::from_str_radix(field("flags:")?, 8).ok()?;
    Some((flags, field("mnt_id:")?.parse().ok()?))
}

/// The socket file system answers this for every address family, without touching the socket.
fn protocol(path: &Path) -> io::Result<String> {
    let name = xattr::get_deref(path, "system.sockprotoname")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_string())
}

/// Whether a file is really called `… (deleted)`.
fn is_literal(dir: &Path, target: &str, meta: &Metadata) -> bool {
    let path = dir.join("root").join(target.trim_start_matches('/'));
    std::fs::symlink_metadata(path).is_ok_and(|m| m.ino() == meta.ino() && m.dev() == meta.dev())
}

/// What the link's target and stat(2) say; `is_literal` tells a file that is called `x (deleted)` from a deleted one.
fn classify(target: &str, meta: &Metadata, is_literal: impl FnOnce() -> bool) -> FdKind {
    if let Some(name) = anonymous(target) {
        return name;
    }
    let (path, deleted) = match target.strip_suffix(DELETED) {
        Some(path) if !is_literal() => (PathBuf::from(path), true),
        _ => (PathBuf::from(target), false),
    };
    let kind = meta.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        FdKind::Device { path, block: kind.is_block_device(), major, minor }
    } else if kind.is_fifo() {
        FdKind::Fifo { path }
    } else if kind.is_dir() {
        FdKind::Directory { path, deleted }
    } else {
        FdKind::File { path, deleted }
    }
}

/// Targets of /proc/PID/fd links that are no path.
pub fn anonymous(target: &str) -> Option<FdKind> {
    if let Some(name) = target.strip_prefix("/memfd:") {
        return Some(FdKind::Memfd { name: name.strip_suffix(DELETED).unwrap_or(name).into() });
    }
    if let Some(name) = target.strip_prefix("anon_inode:") {
        let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        return Some(FdKind::Anon { name: name.into() });
    }
    if target.starts_with('/') {
        return ["/secretmem", "/dmabuf:"]
            .iter()
            .find(|p| target.starts_with(**p))
            .map(|p| FdKind::Anon { name: p.trim_matches(['/', ':']).into() });
    }
    let (kind, _) = target.split_once(":[")?;
    Some(match kind {
        "pipe" => FdKind::Pipe,
        "pidfd" | "pidfs" => FdKind::Anon { name: "pidfd".into() },
        _ => FdKind::Namespace { name: target.into() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info() {
        assert_eq!(fdinfo("pos:\t0\nflags:\t0100002\nmnt_id:\t26\nino:\t4\n"), Some((0o100002, 26)));
        assert_eq!(fdinfo("pos:\t0\n"), None);
    }

    #[test]
    fn anonymous_objects() {
        let anon = |name: &str| Some(FdKind::Anon { name: name.into() });
        for (target, want) in [
            ("anon_inode:[eventpoll]", anon("eventpoll")),
            ("anon_inode:inotify", anon("inotify")),
            ("anon_inode:[io_uring]", anon("io_uring")),
            ("anon_inode:bpf-map", anon("bpf-map")),
            ("pidfs:[12]", anon("pidfd")),
            ("/memfd:doublemapper (deleted)", Some(FdKind::Memfd { name: "doublemapper".into() })),
            ("pipe:[123]", Some(FdKind::Pipe)),
            ("net:[4026531840]", Some(FdKind::Namespace { name: "net:[4026531840]".into() })),
            ("/secretmem (deleted)", anon("secretmem")),
            ("/var/log/a.log", None),
        ] {
            assert_eq!(anonymous(target), want, "{target}");
        }
    }

    #[test]
    fn deleted_and_literal_names() {
        let dir = tempfile::tempdir().unwrap();
        let meta = |p: &Path| std::fs::metadata(p).unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "").unwrap();
        let deleted = |d: bool| FdKind::File { path: if d { "/a".into() } else { "/a (deleted)".into() }, deleted: d };
        assert_eq!(classify("/a (deleted)", &meta(&file), || false), deleted(true));
        assert_eq!(classify("/a (deleted)", &meta(&file), || true), deleted(false));
        let null = classify("/dev/null", &meta(Path::new("/dev/null")), || false);
        assert_eq!(null, FdKind::Device { path: "/dev/null".into(), block: false, major: 1, minor: 3 });
        assert!(matches!(classify("/x", &meta(dir.path()), || false), FdKind::Directory { .. }));
    }
}
