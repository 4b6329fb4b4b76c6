//! Is there room for the images?

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use nix::sys::statvfs::statvfs;

use crate::config::Settings;
use crate::paths::Paths;
use crate::preflight::{Finding, Needs};
use crate::sys::trust;

/// What CRIU writes beside memory pages, for all units together, and room for the record and the history.
const MARGIN: u64 = 64 << 20;

/// How long the images may take, seconds: less than `TimeoutStopSec=` of kup-checkpoint.service.
const MOST: u64 = 420;

/// How much is written to see how fast the disk is.
const SAMPLE: u64 = 8 << 20;

/// What is not worth a word, bytes.
const LITTLE: u64 = 1 << 20;

pub fn ask(paths: &Paths, settings: &Settings, needs: &Needs) -> Vec<Finding> {
    let images = paths.images_root();
    // The directory may not have been made yet.
    let Some(dir) = images.ancestors().find(|d| d.exists()) else { return Vec::new() };
    match statvfs(dir) {
        Ok(fs) => {
            let mut found =
                judge(dir, needs.images, fs.blocks_available() * fs.fragment_size(), settings.max_image_mib);
            found.extend(trust::only_ours(dir, &paths.state_dir()).err().map(|e| not_ours(&e)));
            if found.is_empty() && needs.units > 0 {
                found.extend(speed(dir).map_or_else(|e| Some(unwritable(dir, &e)), |speed| time(needs, speed)));
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
fn time(needs: &Needs, speed: u64) -> Option<Finding> {
    let seconds = needs.written / speed.max(1);
    if seconds < MOST {
        return cost(needs, speed);
    }
    let message = format!(
        "images of up to {} MiB would take the disk {seconds} s, and a checkpoint may take {MOST} s",
        needs.written.div_ceil(1 << 20)
    );
    let fix =
        "use a faster disk, mark fewer units, or keep their memory in RAM alone: Storage=\"ram\", Fallback=\"none\"";
    Some(Finding::blocker("space.time", message).fix(fix))
}

/// What images on disk cost, and how much of that while the services stand still.
fn cost(needs: &Needs, speed: u64) -> Option<Finding> {
    let (all, at_once) = (needs.images, needs.at_once.min(needs.images));
    let (mib, seconds) = (|bytes: u64| bytes.div_ceil(1 << 20), |bytes: u64| bytes as f64 / speed.max(1) as f64);
    let when = match (at_once, all - at_once) {
        (..LITTLE, _) => "most of it while the services still run, in the blackout only what changed last".into(),
        (_, ..LITTLE) => "all of it in the blackout".into(),
        (_, before) => format!(
            "{} MiB while the services still run, in the blackout {} MiB (about {:.1} s) and what changed last",
            mib(before),
            mib(at_once),
            seconds(at_once)
        ),
    };
    let message = format!(
        "up to {} MiB go to disk before the switch, about {:.1} s of writing as fast as the disk is now: {when}",
        mib(all),
        seconds(all)
    );
    (all >= LITTLE).then(|| Finding::note("fallback.cost", message))
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
        let dir = tempfile::tempdir().unwrap();
        assert!(speed(dir.path()).unwrap() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the sample is gone");
        let found =
            ask(&Paths::below(dir.path()), &Settings::default(), &Needs { images: u64::MAX / 2, ..Needs::default() });
        assert_eq!(found[0].id, "space.images");
    }
    #[test]
    fn what_writing_costs() {
        const MIB: u64 = 1 << 20;
        let time = |images, written, at_once| time(&Needs { images, written, at_once, ..Needs::default() }, 100 * MIB);
        let id = |found: Option<Finding>| found.unwrap().id;
        assert_eq!(id(time(41 << 30, 41 << 30, 0)), "fallback.cost");
        assert_eq!(id(time(42 << 30, 42 << 30, 0)), "space.time");
        assert_eq!(id(time(42 << 30, 0, 0)), "fallback.cost", "what may stay in RAM refuses no update");
        assert_eq!(time(MIB - 1, MIB - 1, 0), None, "nothing of it goes to disk");
        let note = |at_once| time(300 * MIB, 300 * MIB, at_once).unwrap().message;
        let (little, much) = (note(0), note(50 * MIB));
        assert!(note(300 * MIB).ends_with("all of it in the blackout"));
        assert!(little.contains("300 MiB") && little.contains("3.0 s") && little.contains("most of it"), "{little}");
        assert!(much.contains("250 MiB while") && much.contains("blackout 50 MiB (about 0.5 s)"), "{much}");
    }
}
