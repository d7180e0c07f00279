//! Files and block devices as storage: positioned I/O, locks, change watches, and the hosted driver.
//!
//! ```text
//!   engine --operations--> HostedDriver --inline--> FileStorage      page cache
//!                              |  `--worker threads--> FileStorage   cold reads, syncs, punching
//!   tools  --blocking----> FileTable ----------------> FileStorage
//! ```
//!
//! All system calls on image files are made below this module.

mod direct;
mod driver;
mod error;
mod file;
mod gather;
mod lease;
mod lock;
mod pool;
mod space;
mod table;
mod unpack;
mod watch;
mod windows;
mod workers;

pub(crate) use driver::LogSync;
pub use driver::{HostedDriver, WorkerCounts};
pub use error::StorageError;
pub use file::{Access, FileKey, FileOptions, FileStorage, LockMode};
pub use pool::PoolMemory;
pub use space::{DiskUse, FreeSpace, Stretch, free_space};
pub use table::FileTable;
pub use watch::{Change, ChangeWatch};
pub use workers::Waker;
