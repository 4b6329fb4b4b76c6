//! Where kexec will put the target's parts, as the kernel's log says it when a target is loaded with KEXEC_FILE_DEBUG
//! (kernel/kexec_file.c, since Linux 6.8).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use crate::paths::Paths;

/// Longer than any record of the log (CONSOLE_EXT_LOG_MAX), bytes.
const RECORD: usize = 8192;

/// The kernel's log from a moment on.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// From now on.
    ///
    /// # Errors
    /// As open(2).
    pub fn begin(paths: &Paths) -> io::Result<Self> {
        let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(paths.at("/dev/kmsg"))?;
        log.seek(SeekFrom::End(0))?;
        Ok(Self(log))
    }

    /// What it says by now of the segments of the last load.
    ///
    /// # Errors
    /// When it does not say all, or cannot be read.
    pub fn segments(&mut self) -> io::Result<Vec<Range<u64>>> {
        let (mut record, mut text) = ([0; RECORD], String::new());
        loop {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(length) => text.push_str(&String::from_utf8_lossy(&record[..length])),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The oldest records made room for new ones.
                Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                Err(e) => return Err(e),
            }
        }
        parse(&text).ok_or_else(|| io::Error::other("the kernel's log does not say it"))
    }
}

/// The segments of the last load that `log` tells of: `nr_segments = 2`, and for each
/// `segment[0]: buf=0x… bufsz=0x… mem=0x… memsz=0x…`.
fn parse(log: &str) -> Option<Vec<Range<u64>>> {
    let (_, last) = log.rsplit_once("nr_segments = ")?;
    let (count, rest) = last.split_once('\n')?;
    let hex = |line: &str, key: &str| {
        let (_, value) = line.split_once(key)?;
        u64::from_str_radix(value.split_ascii_whitespace().next()?, 16).ok()
    };
    let segments = rest.lines().filter(|line| line.contains("segment[")).map(|line| {
        let start = hex(line, " mem=0x")?;
        Some(start..start.checked_add(hex(line, " memsz=0x")?)?)
    });
    let segments: Vec<_> = segments.collect::<Option<_>>()?;
    (Some(segments.len()) == count.trim().parse().ok() && !segments.is_empty()).then_some(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_the_last_load() {
        let log = "6,871,9,-;kexec_file: nr_segments = 1\n6,872,9,-;kexec_file: segment[0]: buf=0x0 bufsz=0x1 mem=0x1000 memsz=0x1000\n\
                   6,881,9,-;kexec_file: nr_segments = 2\n SUBSYSTEM=x\n\
                   6,882,9,-;kexec_file: segment[0]: buf=0x00000000e0e5be5a bufsz=0x5000 mem=0x7fff9000 memsz=0x6000\n\
                   6,883,9,-;usb 1-1: something else\n\
                   6,884,9,-;kexec_file: segment[1]: buf=0x000000004f0a2d4e bufsz=0x2a50de0 mem=0x7a000000 memsz=0x2a51000\n";
        assert_eq!(parse(log).unwrap(), [0x7fff_9000..0x7fff_f000, 0x7a00_0000..0x7ca5_1000]);
        assert_eq!(parse(&log.replace("segment[1]", "x")), None, "one is not told of");
        assert_eq!(parse(&log.replace("mem=0x7a000000", "mem=____")), None);
        assert_eq!(parse(""), None);
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(paths.at("/dev")).unwrap();
        std::fs::write(paths.at("/dev/kmsg"), log).unwrap();
        assert!(Log::begin(&paths).unwrap().segments().is_err(), "what was before");
    }
}
