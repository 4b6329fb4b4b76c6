//! Is there room for the images?

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use nix::sys::statvfs::statvfs;

use crate::config::Settings;
use crate::paths::Paths;
use crate::preflight::Finding;
use crate::sys::trust;
use crate::unit::{Fallback, Storage};

/// What CRIU writes beside memory pages, for all units together, and room for the record and the history.
const MARGIN: u64 = 64 << 20;

/// How long the images may take, seconds: less than `TimeoutStopSec=` of kup-checkpoint.service.
const MOST: u64 = 420;

/// How much is written to see how fast the disk is.
const SAMPLE: u64 = 8 << 20;

pub fn ask(paths: &Paths, settings: &Settings, needed: u64) -> Vec<Finding> {
    let images = paths.images_root();
    let to_disk = settings.storage == Storage::Disk || settings.fallback == Fallback::Disk;
    // The directory may not have been made yet.
    let Some(dir) = images.ancestors().find(|d| d.exists()) else { return Vec::new() };
    match statvfs(dir) {
        Ok(fs) => {
            let mut found = judge(dir, needed, fs.blocks_available() * fs.fragment_size(), settings.max_image_mib);
            found.extend(trust::only_ours(dir, &paths.state_dir()).err().map(|e| not_ours(&e)));
            if found.is_empty() && needed > 0 {
                let judge = if to_disk { in_time } else { cost };
                found.push(speed(dir).map_or_else(|e| unwritable(dir, &e), |speed| judge(needed, speed)));
            }
            found
        }
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

fn unwritable(dir: &Path, e: &io::Error) -> Finding {
    let message = format!("nothing can be written to {}, where the images go: {e}", dir.display());
    Finding::blocker("space.unwritable", message).fix("see 'journalctl -k' for the disk's trouble")
}

fn not_ours(e: &io::Error) -> Finding {
    Finding::blocker("space.not-private", format!("images hold secrets, and {e}"))
}

/// A checkpoint that takes too long is given up, when all else has stopped already: better not to begin.
fn in_time(needed: u64, speed: u64) -> Finding {
    let seconds = needed / speed.max(1);
    if seconds < MOST {
        return cost(needed, speed);
    }
    let message = format!(
        "images of up to {} MiB would take the disk {seconds} s, and a checkpoint may take {MOST} s",
        needed.div_ceil(1 << 20)
    );
    let fix =
        "use a faster disk, mark fewer units, or keep their memory in RAM alone: Storage=\"ram\", Fallback=\"none\"";
    Finding::blocker("space.time", message).fix(fix)
}

/// What the way back costs: the images have to be on disk before the switch.
fn cost(needed: u64, speed: u64) -> Finding {
    let (mib, seconds) = (needed.div_ceil(1 << 20), needed as f64 / speed.max(1) as f64);
    let message = format!(
        "images of up to {mib} MiB go to disk before the switch, so that there is a way back: about {seconds:.1} s of the \
         blackout, as fast as the disk is now"
    );
    Finding::note("fallback.cost", message)
}

/// Bytes that reach the disk in a second, by a small sample.
fn speed(dir: &Path) -> io::Result<u64> {
    let mut sample = Vec::new();
    File::open("/dev/urandom")?.take(SAMPLE).read_to_end(&mut sample)?;
    let path = dir.join(".kup-sample");
    // Left over where a check was killed.
    let _ = std::fs::remove_file(&path);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let begun = Instant::now();
        file.write_all(&sample)?;
        file.sync_data()?;
        Ok((SAMPLE as f64 / begun.elapsed().as_secs_f64().max(1e-6)) as u64)
    })();
    let _ = std::fs::remove_file(&path);
    written
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
        assert_eq!(in_time(41 << 30, 100 << 20).id, "fallback.cost");
        assert_eq!(in_time(42 << 30, 100 << 20).id, "space.time");
        let note = cost(300 << 20, 100 << 20).message;
        assert!(note.contains("300 MiB") && note.contains("3.0 s"), "{note}");
        let dir = tempfile::tempdir().unwrap();
        assert!(speed(dir.path()).unwrap() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the sample is gone");
        let found = ask(&Paths::below(dir.path()), &Settings::default(), u64::MAX / 2);
        assert_eq!(found[0].id, "space.images");
    }
}
