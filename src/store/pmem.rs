//! The frames of memory that was handed over, after the switch: block devices to read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::arena::Frames;
use super::runs::{Layout, Run};

/// The frames of devices.
#[derive(Debug)]
pub struct Pmem {
    devices: Vec<File>,
    layout: Layout,
}

impl Pmem {
    /// The frames of `runs`, each in its device.
    ///
    /// # Errors
    /// When a device cannot be opened; names it.
    pub fn open(runs: &[Run], devices: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &PathBuf| {
            File::open(path).map_err(|e| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display())))
        };
        Ok(Self { devices: devices.iter().map(open).collect::<io::Result<_>>()?, layout: Layout::new(runs) })
    }
}

impl Frames for Pmem {
    fn read(&self, frame: u32, data: &mut [u8]) -> io::Result<()> {
        let (mut rest, mut frame) = (data, u64::from(frame));
        while !rest.is_empty() {
            let place = self.layout.place(frame).ok_or(io::ErrorKind::InvalidData)?;
            let device = self.devices.get(place.run).ok_or(io::ErrorKind::NotFound)?;
            let (data, behind) = rest.split_at_mut(rest.len().min(place.room as usize));
            device.read_exact_at(data, place.offset)?;
            frame += data.len() as u64 / super::PAGE;
            rest = behind;
        }
        Ok(())
    }

    /// What came over the switch is not changed.
    fn write(&self, _: u32, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn take(&self, _: usize) -> Vec<u32> {
        Vec::new()
    }

    fn give(&self, _: &mut dyn Iterator<Item = u32>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PAGE;
    use crate::sys::hugepage::SIZE;

    #[test]
    fn frames_are_read_across_devices() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [Run { start: 0, length: 3 * SIZE }, Run { start: 8 * SIZE, length: 3 * SIZE }];
        let devices: Vec<_> = (0..2).map(|n| dir.path().join(n.to_string())).collect();
        for (n, device) in devices.iter().enumerate() {
            std::fs::write(device, vec![n as u8 + 1; 3 * SIZE as usize]).unwrap();
        }
        let pmem = Pmem::open(&runs, &devices).unwrap();
        let mut data = vec![0; 2 * PAGE as usize];
        pmem.read(511, &mut data).unwrap();
        assert_eq!((data[0], data[PAGE as usize]), (1, 2));
        assert!(pmem.read(1023, &mut data).is_err(), "behind the last one");
        assert!(Pmem::open(&runs, &[dir.path().join("none")]).unwrap_err().to_string().contains("none"));
    }
}
