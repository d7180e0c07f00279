//! Files and block devices as storage: positioned I/O, locks, change watches, and the hosted driver.
//!
//! ```text
//!   engine --operations--> HostedDriver --inline--> FileStorage      page cache
//!                              |  |`--read ring------> kernel        cold reads
//!                              |  `--worker threads--> FileStorage   syncs, punching; cold reads without a ring
//!   tools  --blocking----> FileTable ----------------> FileStorage
//! ```
//!
//! All system calls on image files are made below this module.

mod cold;
mod direct;
mod driver;
mod error;
mod file;
mod gather;
mod lease;
mod lock;
mod pool;
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64",
    target_arch = "powerpc64"
))]
mod read_ring;
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64",
    target_arch = "powerpc64"
)))]
#[path = "no_read_ring.rs"]
mod read_ring;
mod space;
mod table;
mod unpack;
mod watch;
mod windows;
mod workers;

pub use cold::ColdReads;
pub(crate) use driver::LogSync;
pub use driver::{HostedDriver, WorkerCounts};
pub use error::StorageError;
pub use file::{Access, FileKey, FileOptions, FileStorage, LockMode};
pub use pool::PoolMemory;
pub use space::{DiskUse, FreeSpace, Stretch, free_space};
pub(crate) use space::{is_fit_for_logs, may_set_room_aside};
pub use table::FileTable;
pub use watch::{Change, ChangeWatch};
pub use workers::Waker;
