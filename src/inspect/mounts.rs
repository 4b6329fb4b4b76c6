//! The mounts that a process sees, /proc/PID/mountinfo of proc_pid_mountinfo(5).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id, as in fdinfo's `mnt_id`.
    pub id: i32,
    /// The mount it hangs on.
    pub parent: i32,
    /// Device number, `MAJOR:MINOR`.
    pub device: String,
    /// The directory of the file system that is mounted.
    pub root: PathBuf,
    /// Where, seen from the process's root directory.
    pub point: PathBuf,
    /// `ext4`, `tmpfs`, …
    pub fs_type: String,
    /// Whether nothing can be written through it.
    pub read_only: bool,
    /// Options of the file system itself, separated by commas.
    pub options: String,
}

/// All mounts of one mount namespace, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(pub BTreeMap<i32, Mount>);

impl Mounts {
    /// Parses mountinfo; a line of another form is left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(line).map(|m| (m.id, m)).collect())
    }

    /// The mount with id `id`; `None` when it is not in the process's mount namespace.
    pub fn get(&self, id: i32) -> Option<&Mount> {
        self.0.get(&id)
    }

    /// The mount that `path` lies on: the deepest mount point above it, and of several there the topmost.
    pub fn of_path(&self, path: &Path) -> Option<&Mount> {
        let above = self.0.values().filter(|m| path.starts_with(&m.point));
        above.max_by_key(|m| (m.point.components().count(), self.depth(m)))
    }

    /// Whether another mount lies on the same place, so that the first is not reachable by its path.
    pub fn is_overmounted(&self, mount: &Mount) -> bool {
        self.of_path(&mount.point).is_some_and(|top| top.id != mount.id)
    }

    /// Number of mounts between `mount` and the root; the map may hold no loop, but text may.
    fn depth(&self, mount: &Mount) -> usize {
        let above = std::iter::successors(self.get(mount.parent), |m| self.get(m.parent).filter(|p| p.id != m.id));
        above.take(self.0.len()).count()
    }
}

impl Mount {
    /// Whether what lies on it is gone when the machine boots anew.
    pub fn is_volatile(&self) -> bool {
        matches!(self.fs_type.as_str(), "tmpfs" | "ramfs" | "hugetlbfs" | "mqueue")
    }
}

fn line(line: &str) -> Option<Mount> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ');
    let id = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let device = fields.next()?.to_string();
    let root = unescape(fields.next()?).into();
    let point = unescape(fields.next()?).into();
    let read_only = fields.next()?.split(',').any(|o| o == "ro");
    let mut fields = right.split(' ');
    let fs_type = fields.next()?.to_string();
    let options = fields.nth(1).unwrap_or_default().to_string();
    Some(Mount { id, parent, device, root, point, fs_type, read_only, options })
}

/// Blanks, newlines and backslashes are octal escapes there.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
24 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 24 0:24 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=400k
31 30 0:24 /a /run/a\\040b ro,nosuid - tmpfs tmpfs rw
40 24 0:30 / /tmp rw - tmpfs tmpfs rw
41 40 8:1 /var/tmp/x /tmp rw - ext4 /dev/sda1 rw
nonsense
";

    #[test]
    fn parsed() {
        let mounts = Mounts::parse(TEXT);
        assert_eq!(mounts.0.len(), 5);
        assert_eq!(mounts.get(31).unwrap().point, Path::new("/run/a b"));
        assert!(mounts.get(31).unwrap().read_only && !mounts.get(30).unwrap().read_only);
        assert_eq!(mounts.get(30).unwrap().options, "rw,size=400k");
        assert!(mounts.get(30).unwrap().is_volatile());
        assert!(mounts.get(99).is_none());
        assert_eq!(mounts.of_path(Path::new("/run/x")).unwrap().id, 30);
        assert_eq!(mounts.of_path(Path::new("/tmp/x")).unwrap().id, 41);
        assert_eq!(mounts.of_path(Path::new("/runner")).unwrap().id, 24);
        assert!(mounts.is_overmounted(mounts.get(40).unwrap()));
        assert!(!mounts.is_overmounted(mounts.get(41).unwrap()));
    }
}
