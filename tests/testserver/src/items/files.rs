//! A file that is open and deleted.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Result, ensure};

use super::Item;
use crate::pattern::bytes;

/// More than the mebibyte that CRIU takes along unless told otherwise.
const SIZE: usize = 3 * 1024 * 1024;
const OFFSET: u64 = 123_456;

/// The file.
pub struct Deleted(File);

impl Deleted {
    pub fn new(state: &Path) -> Result<Self> {
        let path = state.join("deleted");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
        file.write_all(&bytes(5, SIZE))?;
        file.seek(SeekFrom::Start(OFFSET))?;
        fs::remove_file(path)?;
        Ok(Self(file))
    }
}

impl Item for Deleted {
    fn name(&self) -> &'static str {
        "deleted-file"
    }

    fn check(&mut self) -> Result<()> {
        let offset = self.0.stream_position()?;
        ensure!(offset == OFFSET, "its offset is {offset} instead of {OFFSET}");
        let meta = self.0.metadata()?;
        ensure!(meta.nlink() == 0, "it has {} names again", meta.nlink());
        ensure!(meta.len() == SIZE as u64, "its size is {} instead of {SIZE}", meta.len());
        let mut found = vec![0; SIZE];
        self.0.read_exact_at(&mut found, 0)?;
        ensure!(found == bytes(5, SIZE), "its content is not what was written");
        Ok(())
    }
}
