//! Where checkpointed memory lives.
//!
//! Pages lie in *windows*: 2 MiB of a process's address space, each in a slot of the same size on the [`Medium`]. A page's
//! place follows from its address ("FOAM": file-offset-based address mapping), so that a later round of an incremental
//! checkpoint overwrites an earlier one in place, and a restore needs no merge. Windows rather than the address itself,
//! because ext4 knows no offset of 128 TiB, and because a slot is what a huge page holds.
//!
//! # Stores that there could be
//!
//! memfds that the Live Update Orchestrator preserves would be [`arena::Frames`], on both sides of the switch: a frame is a page
//! of a memfd, handed out without gaps, since what is preserved has none. [`ram::Ram`] on top of them is the [`Medium`] as it is,
//! with its table and its copy on the disk, and nobody who reads a [`Memory`] would notice; only `update`, which names
//! [`arena::Arena`], would have to take any frames.
//!
//! A process's own pages, kept in place, fit behind the switch: frames, a table, an index. Before it they do not: [`Foam`] would
//! need a third verb beside `write` and `keep`, which takes the frame and the checksum of a page that stays where it is in place
//! of its bytes, and the kernel would have to be told of ranges that are known at the freeze only, when the target is loaded
//! already. To give such pages to the process again without a copy, [`Memory`] would need a verb beside `read` that gives them
//! away, and the kernel a way to take them.

pub mod arena;
pub mod disk;
pub mod foam;
pub mod index;
pub mod pmem;
pub mod ram;
pub mod runs;
pub mod sealed;
pub mod vault;
pub mod window;

use std::io;

pub use disk::Disk;
pub use foam::{Foam, FoamError};
pub use index::{Index, IndexError, Owner};
pub use sealed::{Pages, Sealed};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a window and of a slot.
pub const WINDOW: u64 = 2 << 20;

/// What slots are on. Offsets are in bytes; slot `n` begins at `n * WINDOW`.
pub trait Medium: Send + Sync {
    /// Writes all of `data` at `offset`; a write does not cross a slot's end.
    ///
    /// # Errors
    /// As the medium's.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Fills `data` from `offset`; a read does not cross a slot's end.
    ///
    /// # Errors
    /// As the medium's; also when nothing was ever written there.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// The same from a second place, where what was written went as well.
    ///
    /// # Errors
    /// When there is none, or as the medium's.
    fn read_copy(&self, _offset: u64, _data: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Returns when what was written will be there after the switch.
    ///
    /// # Errors
    /// As the medium's.
    fn sync(&self) -> io::Result<()>;
}

/// Pages of a process that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Address of the first page in the process.
    pub start: u64,
    /// How many; at least one.
    pub pages: u64,
    /// May CRIU leave them to the pager?
    pub lazy: bool,
}

/// The memory of one process, as the pager gets at it.
pub trait Memory: Send + Sync {
    /// What there is, in the order of addresses, without overlap.
    fn extents(&self) -> &[Extent];

    /// Addresses of lazy pages that are likely to be needed first, in order.
    fn hot(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Reads pages that [`Memory::extents`] lists, and compares their checksums. `address` and the length of `data` are
    /// multiples of [`PAGE`].
    ///
    /// # Errors
    /// When the medium fails, a page is not there, or has changed since it was written.
    fn read(&self, address: u64, data: &mut [u8]) -> io::Result<()>;
}
