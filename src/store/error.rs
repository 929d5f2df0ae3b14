//! Why the store refuses, and what to do about it.

use crate::ids::Epoch;
use crate::topology::{CodecError, Invalid};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A refusal of the store.
#[derive(Debug)]
pub enum StoreError {
    /// Another process holds the lock.
    Locked {
        /// The topology file.
        path: PathBuf,
        /// What the lock file says of the holder, such as `process 4711`.
        holder: String,
    },
    /// The disk or its permissions said no; nothing was changed.
    Io {
        /// What was tried, to follow "cannot".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is there and is no topology.
    Unreadable {
        /// The topology file.
        path: PathBuf,
        /// Why not.
        error: Box<CodecError>,
        /// The previous version, if it can be read.
        previous: Option<(PathBuf, Epoch)>,
    },
    /// The file is gone and its previous version is not: this is no new store.
    Vanished {
        /// The topology file.
        path: PathBuf,
        /// The previous version.
        previous: PathBuf,
    },
    /// The topology to save is not newer than what is stored.
    Stale {
        /// What was to be saved.
        epoch: Epoch,
        /// What is stored.
        stored: Epoch,
    },
    /// The topology to save is of another cluster.
    OtherCluster {
        /// What was to be saved.
        cluster: String,
        /// What is stored.
        stored: String,
    },
    /// A store on the network gave no answer. What was asked of it may have been done.
    Unreachable {
        /// The store.
        place: String,
        /// Why not.
        why: String,
    },
    /// The disk of a file store gave no answer. What was asked of it may have been done, or be done yet.
    Stalled {
        /// The store.
        place: String,
        /// For how long.
        waited: Duration,
    },
    /// A store on the network refuses the proxy.
    Refused {
        /// The store.
        place: String,
        /// Its words.
        why: String,
    },
    /// What a store on the network has is no topology.
    Document {
        /// The store.
        place: String,
        /// Why not.
        error: Box<CodecError>,
    },
    /// Somebody else has changed what is stored since it was read; nothing was changed.
    Changed {
        /// The store.
        place: String,
    },
    /// The proxy does not lead any more; nothing was changed.
    Deposed {
        /// The store.
        place: String,
    },
    /// The lease has ended; nothing was changed.
    LeaseEnded {
        /// The store.
        place: String,
    },
    /// More than the store takes, as a sentence; nothing was changed.
    Limit(String),
    /// The topology to save does not hold together.
    Invalid(Vec<Invalid>),
    /// The new version is in place, and the disk did not confirm it: it may be gone after a power cut.
    Unconfirmed {
        /// The topology file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

// === impl StoreError ===

impl StoreError {
    /// Whether nobody knows what became of it. The same may be asked again, which tells.
    #[must_use]
    pub const fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stalled { .. })
    }

    /// The words for a store on the network.
    fn fmt_of_network(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { place, why } => write!(
                f,
                "the topology store {place} gives no answer: {why}; start it, or correct [topology] store"
            ),
            Self::Refused { place, why } => write!(
                f,
                "the topology store {place} refuses preshard: {why}; see [topology] store_username and store_password_file"
            ),
            Self::Document { place, error } => {
                write!(f, "cannot use what the topology store {place} has: {error}")?;
                // A newer version's own document is whole.
                if matches!(**error, CodecError::Newer { .. }) {
                    return Ok(());
                }
                f.write_str(
                    "; restore it from a backup of etcd, or a saved PRESHARD TOPOLOGY DUMP with: preshard restore",
                )
            }
            Self::Changed { place } => write!(
                f,
                "the topology in {place} was changed by another proxy since it was read; read it and try again"
            ),
            Self::Deposed { place } => {
                write!(f, "another proxy leads now, says {place}; nothing was changed")
            }
            Self::LeaseEnded { place } => write!(f, "the lease of this proxy in {place} has ended"),
            Self::Locked { .. }
            | Self::Io { .. }
            | Self::Unreadable { .. }
            | Self::Vanished { .. }
            | Self::Stale { .. }
            | Self::OtherCluster { .. }
            | Self::Limit(_)
            | Self::Invalid(_)
            | Self::Stalled { .. }
            | Self::Unconfirmed { .. } => Ok(()),
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { path, holder } => write!(
                f,
                "the topology file {} is in use by another preshard ({holder}): a file store serves one proxy; \
                 stop the other one, or give this one a [topology] store of its own",
                path.display()
            ),
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                f.write_str(remedy(error.kind()))
            }
            Self::Unreadable {
                path,
                error,
                previous,
            } => fmt_unreadable(f, path, error, previous.as_ref()),
            Self::Vanished { path, previous } => write!(
                f,
                "the topology file {path} is gone, but its previous version {previous} is there, so this is no new \
                 store: restore it from a backup, or, if no later change matters, with: cp {previous} {path}",
                path = path.display(),
                previous = previous.display()
            ),
            Self::Stale { epoch, stored } => {
                write!(
                    f,
                    "refused to store epoch {epoch}: epoch {stored} is stored already; read it and try again"
                )
            }
            Self::OtherCluster { cluster, stored } => write!(
                f,
                "refused to store the topology of cluster '{cluster}' over that of cluster '{stored}': \
                 give each cluster its own store"
            ),
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Document { .. }
            | Self::Changed { .. }
            | Self::Deposed { .. }
            | Self::LeaseEnded { .. } => self.fmt_of_network(f),
            Self::Stalled { place, waited } => write!(
                f,
                "the disk of the topology store {place} has not answered for {waited:?}: what was asked of it may be done yet; \
                 check the disk"
            ),
            Self::Limit(what) => f.write_str(what),
            Self::Invalid(found) => {
                f.write_str("refused to store a topology that does not hold together: ")?;
                f.write_str(
                    &found
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join("; "),
                )
            }
            Self::Unconfirmed { path, error } => write!(
                f,
                "the new topology is in {}, but the disk did not confirm it ({error}): it may be lost in a power cut; \
                 check the disk",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StoreError {}

fn fmt_unreadable(
    f: &mut fmt::Formatter<'_>,
    path: &Path,
    error: &CodecError,
    previous: Option<&(PathBuf, Epoch)>,
) -> fmt::Result {
    write!(f, "cannot use the topology file {}: {error}", path.display())?;
    match previous {
        // A newer version's own file is whole: the way out is the newer version, not an older map.
        _ if matches!(error, CodecError::Newer { .. }) => Ok(()),
        Some((previous, epoch)) => write!(
            f,
            "; the version before it is epoch {epoch}: if no later change matters, restore it with: cp {} {}",
            previous.display(),
            path.display()
        ),
        None => f.write_str("; restore it from a backup"),
    }
}

const fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            "; preshard's user must be able to read and write the file and its folder"
        }
        io::ErrorKind::NotFound => "; create its folder, or correct [topology] store",
        io::ErrorKind::StorageFull => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; put the [topology] store on a writable disk",
        _ => "",
    }
}
