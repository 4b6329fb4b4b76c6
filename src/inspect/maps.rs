//! Memory mappings, from /proc/PID/maps and /proc/PID/map_files.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::fds::{DELETED, fdinfo};
use super::{InspectError, read_text};

/// One memory mapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last one.
    pub end: u64,
    /// Writes are seen by others (MAP_SHARED).
    pub shared: bool,
    /// Writable.
    pub writable: bool,
    /// Executable.
    pub executable: bool,
    /// Path, `[heap]` and the like, or empty for anonymous memory; ` (deleted)` is taken off.
    pub name: String,
    /// Whether the kernel says ` (deleted)`, which it also does for objects that never had a name.
    pub deleted: bool,
    /// The file, for what is backed by one.
    pub file: Option<FileId>,
}

/// Which file a mapping maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileId {
    /// Mount id.
    pub mnt_id: i32,
    /// Inode, as stat(2) gives it.
    pub ino: u64,
    /// Device of the file system, as stat(2) gives it.
    pub dev: u64,
    /// Links; 0 for a file without a name.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// Type and permissions, as stat(2) gives them.
    pub mode: u32,
}

impl Mapping {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no size; no kernel makes such mappings.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SysV shared memory, shmget(2).
    pub fn is_sysv(&self) -> bool {
        self.deleted && self.name.strip_prefix("/SYSV").is_some_and(|k| k.len() == 8)
    }

    /// Rings of io_uring(7).
    pub fn is_io_uring(&self) -> bool {
        self.name.contains("anon_inode:[io_uring]")
    }

    /// Rings of Linux AIO, io_setup(2): unlike io_uring, CRIU knows them.
    pub fn is_aio(&self) -> bool {
        self.deleted && self.name == "/[aio]"
    }

    /// Whether it maps a file that has, or had, a path.
    pub fn is_file(&self) -> bool {
        self.name.starts_with('/') && (!self.deleted || self.is_deleted_file())
    }

    /// Whether it maps a real file that has no name any more, rather than an object that never had one.
    pub fn is_deleted_file(&self) -> bool {
        // mmap(2) MAP_SHARED|MAP_ANONYMOUS shows as /dev/zero (deleted), MAP_HUGETLB as /anon_hugepage (deleted).
        const NAMELESS: [&str; 6] = ["/dev/zero", "/memfd:", "/[aio]", "/anon_hugepage", "/secretmem", "/dmabuf:"];
        self.deleted
            && self.name.starts_with('/')
            && !self.is_sysv()
            && !NAMELESS.iter().any(|n| self.name.starts_with(n))
    }

    /// Its name in /proc/PID/map_files.
    pub fn range(&self) -> String {
        format!("{:x}-{:x}", self.start, self.end)
    }
}

/// All mappings of the process at `dir` (/proc/PID).
pub(super) fn read(dir: &Path) -> Result<Vec<Mapping>, InspectError> {
    let mut maps = parse(&read_text(&dir.join("maps"))?);
    // Several mappings of one file are the rule: it is opened once. A path is part of the key, since bind mounts
    // show one inode on several mounts.
    let mut known: BTreeMap<(String, u64, String), Option<FileId>> = BTreeMap::new();
    for (map, device, inode) in &mut maps {
        if *inode == 0 || !map.name.starts_with('/') {
            continue;
        }
        let key = (device.clone(), *inode, map.name.clone());
        let file = match known.get(&key) {
            Some(file) => file.clone(),
            None => {
                let file = match identify(&dir.join("map_files").join(map.range())) {
                    Ok(file) => Some(file),
                    Err(e) if e.is_gone() => None,
                    Err(e) => return Err(e),
                };
                known.insert(key, file.clone());
                file
            }
        };
        map.file = file;
    }
    Ok(maps.into_iter().map(|(map, ..)| map).collect())
}

/// O_PATH: nothing of the file itself is opened, so that devices notice nothing.
fn identify(path: &PathBuf) -> Result<FileId, InspectError> {
    let open = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path);
    let file = open.map_err(InspectError::read(path))?;
    let meta = file.metadata().map_err(InspectError::read(path))?;
    let info_path = PathBuf::from(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let (_, mnt_id) = fdinfo(&read_text(&info_path)?).ok_or(InspectError::Form { path: info_path })?;
    Ok(FileId { mnt_id, ino: meta.ino(), dev: meta.dev(), nlink: meta.nlink(), size: meta.size(), mode: meta.mode() })
}

/// Mappings with the device and inode that the kernel shows for them; lines of another form are left out.
pub fn parse(text: &str) -> Vec<(Mapping, String, u64)> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(Mapping, String, u64)> {
    // 00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus-daemon
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let perms = fields.next()?.as_bytes();
    let device = fields.nth(1)?.to_string();
    let inode = fields.next()?.parse().ok()?;
    let name = fields.next().unwrap_or("").trim_start_matches(' ').replace("\\012", "\n");
    let (name, deleted) = match name.strip_suffix(DELETED) {
        Some(name) => (name.to_string(), true),
        None => (name, false),
    };
    let mapping = Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        shared: perms.get(3) == Some(&b's'),
        writable: perms.get(1) == Some(&b'w'),
        executable: perms.get(2) == Some(&b'x'),
        name,
        deleted,
        file: None,
    };
    (mapping.end >= mapping.start).then_some((mapping, device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
55e5f2c00000-55e5f2c9a000 r-xp 00002000 08:01 1572 /usr/bin/redis-check-rdb
7f1a00000000-7f1a00200000 rw-p 00000000 00:00 0 
7f1a10000000-7f1a10001000 r--p 00000000 08:01 2001                       /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)
7f1a20000000-7f1a20001000 rw-s 00000000 00:01 2002                       /dev/zero (deleted)
7f1a30000000-7f1a30001000 rw-s 00000000 00:01 2003                       /SYSV0052e2c1 (deleted)
7f1a40000000-7f1a40001000 rw-s 00000000 00:0f 2004                       anon_inode:[io_uring]
7f1a50000000-7f1a50001000 rw-s 00000000 00:13 2005                       /[aio] (deleted)
7f1a60000000-7f1a60001000 rw-s 00000000 00:01 2006                       /memfd:x y (deleted)
7f1a70000000-7f1a70001000 rw-s 00000000 00:1b 2007                       /dev/shm/a b (deleted)
7ffd10000000-7ffd10021000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn parsed() {
        let maps = parse(TEXT);
        assert_eq!(maps.len(), 10);
        let (first, device, inode) = &maps[0];
        assert_eq!((first.start, first.end), (0x55e5f2c00000, 0x55e5f2c9a000));
        assert!(first.executable && !first.writable && !first.shared);
        assert_eq!((first.name.as_str(), device.as_str(), *inode), ("/usr/bin/redis-check-rdb", "08:01", 1572));
        assert_eq!(first.range(), "55e5f2c00000-55e5f2c9a000");
        assert_eq!(maps[1].0.name, "");
        let deleted: Vec<&str> = maps.iter().filter(|m| m.0.is_deleted_file()).map(|m| m.0.name.as_str()).collect();
        assert_eq!(deleted, ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/dev/shm/a b"]);
        let places = |f: fn(&Mapping) -> bool| maps.iter().position(|m| f(&m.0));
        assert_eq!(places(Mapping::is_sysv), Some(4));
        assert_eq!(places(Mapping::is_io_uring), Some(5));
        assert_eq!(places(Mapping::is_aio), Some(6));
    }
}
