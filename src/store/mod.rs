//! Where the topology outlives the process.
//!
//! ```text
//!  open ──▶ exclusive lock (one proxy for a file)
//!  load ──▶ nothing yet, a topology, or a refusal that says how to restore; never a guess
//!  save ──▶ only a higher epoch of the same cluster; on return it survives a power cut
//! ```
//!
//! The store is the only record of which keys live where, so that every doubt is a refusal: a file that
//! cannot be read, a newer format, damage, or a main file that vanished while its previous version is
//! still there. All calls block on the disk and belong on a control thread, never on a worker.

mod error;
mod file;

pub use error::StoreError;
pub use file::FileStore;
