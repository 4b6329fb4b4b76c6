//! Is there room for the images?

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::config::Settings;
use crate::paths::Paths;
use crate::preflight::Finding;

/// What CRIU writes beside memory pages, for all units together, and room for the record and the history.
const MARGIN: u64 = 64 << 20;

pub fn ask(paths: &Paths, settings: &Settings, needed: u64) -> Vec<Finding> {
    let images = paths.images_root();
    // The directory may not have been made yet.
    let Some(dir) = images.ancestors().find(|d| d.exists()) else { return Vec::new() };
    match statvfs(dir) {
        Ok(fs) => judge(dir, needed, fs.blocks_available() * fs.fragment_size(), settings.max_image_mib),
        Err(e) => vec![Finding::warning("space.images", format!("free space in {} is unknown: {e}", dir.display()))],
    }
}

fn judge(dir: &Path, needed: u64, free: u64, most_mib: Option<u64>) -> Vec<Finding> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let mut found = Vec::new();
    if needed + MARGIN > free {
        let message = format!(
            "images of up to {} MiB do not fit into {} ({} MiB free)",
            mib(needed + MARGIN),
            dir.display(),
            mib(free)
        );
        found.push(Finding::blocker("space.images", message).fix("free some space, or mark fewer units"));
    }
    if let Some(most) = most_mib.filter(|most| mib(needed) > *most) {
        let message = format!("images would take up to {} MiB; MaxImageMiB={most} allows less", mib(needed));
        found.push(Finding::blocker("space.limit", message).fix("raise MaxImageMiB in kup.toml, or mark fewer units"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room() {
        let ids = |needed, free, most| {
            let found = judge(Path::new("/var"), needed, free, most);
            found.into_iter().map(|f| f.id).collect::<Vec<_>>()
        };
        assert!(ids(100 << 20, 200 << 20, None).is_empty());
        assert_eq!(ids(100 << 20, 150 << 20, None), ["space.images"]);
        assert_eq!(ids(100 << 20, 1 << 40, Some(99)), ["space.limit"]);
        assert!(ids(100 << 20, 1 << 40, Some(100)).is_empty());
        let dir = tempfile::tempdir().unwrap();
        let found = ask(&Paths::below(dir.path()), &Settings::default(), u64::MAX / 2);
        assert_eq!(found[0].id, "space.images");
    }
}
