//! The topology in one file, for one proxy.
//!
//! ```text
//!  save:  write PATH.tmp ▶ fsync ▶ link PATH as PATH.1 (by .1.tmp) ▶ rename PATH.tmp to PATH ▶ fsync folder
//!  stage: the first two of them, ahead of time
//!           crash: old            crash: old                                  crash: old or new, whole
//! ```
//!
//! At every moment PATH is one whole version: rename replaces it at once. PATH.1 is the version before, for an operator
//! who has to go back. PATH.lock carries the lock, because a lock on PATH itself would go away with the rename;
//! the kernel drops it when the process ends, however it ends, so that a left-over file never keeps anybody out.

use super::local::{self, LocalFleet};
use super::{Answer, FleetStore, StoreError, TopologyStore};
use crate::ids::Epoch;
use crate::topology::Topology;
use crate::topology::codec::DOCUMENT_BYTES_MAX;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::ready;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A locked topology file.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    /// Held open: the lock lives as long as this.
    _lock: File,
    /// Cluster and epoch of what is stored, once known; forgotten after a save of uncertain outcome.
    stored: Option<(String, Epoch)>,
    /// What PATH.tmp has on disk, if it was staged.
    staged: Option<Vec<u8>>,
}

/// The steps of a save, each named by what is about to happen. Tests stop between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    WriteNew,
    KeepPrevious,
    Rename,
    SyncFolder,
}

// === impl FileStore ===

impl FileStore {
    /// Locks the file for this process; it need not exist yet, its folder must.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another proxy holds it, [`StoreError::Io`] if the folder cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = followed(path);
        let lock_path = beside(&path, ".lock");
        let told = |error| StoreError::Io {
            doing: "lock",
            path: lock_path.clone(),
            error,
        };
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path);
        let mut lock = options.map_err(told)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(64).read_to_string(&mut holder);
                let holder = if holder.is_empty() {
                    "of unknown process".into()
                } else {
                    holder
                };
                return Err(StoreError::Locked { path, holder });
            }
            Err(TryLockError::Error(error)) => return Err(told(error)),
        }
        lock.set_len(0)
            .and_then(|()| write!(lock, "process {}", std::process::id()))
            .map_err(told)?;
        Ok(Self {
            path,
            _lock: lock,
            stored: None,
            staged: None,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is stored; nothing if the store is new.
    ///
    /// # Errors
    /// If there is something that cannot be trusted: see [`FileStore::peek`].
    pub fn load(&mut self) -> Result<Option<Topology>, StoreError> {
        let topology = Self::peek(&self.path)?;
        self.stored = topology
            .as_ref()
            .map(|topology| (topology.cluster_id.clone(), topology.epoch));
        Ok(topology)
    }

    /// What is stored, without a lock: for checks beside a running proxy.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] or [`StoreError::Vanished`] with the way back, [`StoreError::Io`] if the disk or its
    /// permissions say no.
    pub fn peek(path: &Path) -> Result<Option<Topology>, StoreError> {
        let path = &followed(path);
        let previous = beside(path, ".1");
        let Some(text) = read(path)? else {
            return match previous.try_exists() {
                Ok(false) => Ok(None),
                Ok(true) => Err(StoreError::Vanished {
                    path: path.clone(),
                    previous,
                }),
                Err(error) => Err(StoreError::Io {
                    doing: "look for",
                    path: previous,
                    error,
                }),
            };
        };
        match Topology::decode(&text) {
            Ok(topology) => Ok(Some(topology)),
            Err(error) => {
                let text = read(&previous).ok().flatten();
                let epoch = text
                    .and_then(|text| Topology::decode(&text).ok())
                    .map(|topology| topology.epoch);
                let previous = epoch.map(|epoch| (previous, epoch));
                let error = Box::new(error);
                Err(StoreError::Unreadable {
                    path: path.clone(),
                    error,
                    previous,
                })
            }
        }
    }

    /// Stores a newer version. When this returns well, the version survives a power cut.
    ///
    /// # Errors
    /// Refusals, and failures that left the old version in place; only [`StoreError::Unconfirmed`] leaves
    /// the new one, which then counts as stored.
    pub fn save(&mut self, topology: &Topology) -> Result<(), StoreError> {
        self.save_with(topology, &mut |_| Ok(()))
    }

    fn save_with(
        &mut self,
        topology: &Topology,
        before: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        topology.validate().map_err(StoreError::Invalid)?;
        if self.stored.is_none() {
            self.load()?;
        }
        super::check_successor(topology, self.stored.as_ref())?;
        let text = topology.encode() + "\n";
        let result = self.replace(text.as_bytes(), before);
        self.stored = match &result {
            Ok(()) | Err(StoreError::Unconfirmed { .. }) => {
                Some((topology.cluster_id.clone(), topology.epoch))
            }
            // Read again before the next save: believe the disk, not the memory of a failure.
            Err(_) => None,
        };
        result
    }

    /// Stores a topology over what is there, which may be damage. Damage is not kept as the version before.
    pub(super) fn overwrite(&mut self, topology: &Topology) -> Result<(), StoreError> {
        topology.validate().map_err(StoreError::Invalid)?;
        let damaged = matches!(Self::peek(&self.path), Err(StoreError::Unreadable { .. }));
        if damaged {
            let aside = beside(&self.path, ".damaged");
            fs::rename(&self.path, &aside).map_err(|error| StoreError::Io {
                doing: "put aside",
                path: self.path.clone(),
                error,
            })?;
        }
        let text = topology.encode() + "\n";
        let result = self.replace(text.as_bytes(), &mut |_| Ok(()));
        self.stored = None;
        result
    }

    /// Writes what is likely to be saved next to where the save will look for it.
    ///
    /// # Errors
    /// It could not be written; the save will try again.
    pub(super) fn stage(&mut self, topology: &Topology) -> Result<(), StoreError> {
        let text = (topology.encode() + "\n").into_bytes();
        self.staged = None;
        let next = beside(&self.path, ".tmp");
        write_whole(&next, &text).map_err(|error| StoreError::Io {
            doing: "write",
            path: next,
            error,
        })?;
        self.staged = Some(text);
        Ok(())
    }

    fn replace(
        &mut self,
        text: &[u8],
        before: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let is_staged = self.staged.take().is_some_and(|staged| staged == text);
        let path = &self.path;
        let next = beside(path, ".tmp");
        let previous = beside(path, ".1");
        let told = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| StoreError::Io { doing, path, error }
        };

        before(Step::WriteNew)
            .and_then(|()| {
                if is_staged {
                    Ok(())
                } else {
                    write_whole(&next, text)
                }
            })
            .map_err(told("write", &next))?;
        before(Step::KeepPrevious)
            .and_then(|()| keep_previous(path, &previous))
            .map_err(told("replace", &previous))?;
        before(Step::Rename)
            .and_then(|()| fs::rename(&next, path))
            .map_err(told("replace", path))?;
        before(Step::SyncFolder)
            .and_then(|()| sync_folder(path))
            .map_err(|error| StoreError::Unconfirmed {
                path: path.clone(),
                error,
            })
    }
}

/// At the start, and for a restore, nothing else runs that waiting for the disk could hold up.
impl TopologyStore for FileStore {
    fn load(&mut self) -> Answer<'_, Option<Topology>> {
        Box::pin(ready(Self::load(self)))
    }

    fn save<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(ready(Self::save(self, topology)))
    }

    fn restore<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(ready(local::restore(self, topology)))
    }

    fn place(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn into_fleet(self: Box<Self>) -> Result<Arc<dyn FleetStore>, StoreError> {
        Ok(Arc::new(LocalFleet::open(*self)?))
    }
}

/// A link is followed first: rename would replace it instead of what it points to.
fn followed(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// `PATH` with something after it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// A file's content, at most a byte more than any document; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let told = |error| StoreError::Io {
        doing: "read",
        path: path.to_owned(),
        error,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(told(error)),
    };
    let mut text = Vec::new();
    file.take(DOCUMENT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut text)
        .map_err(told)?;
    Ok(Some(text))
}

/// Gives what a path has now a second name. It is on disk already, so this costs no wait for it.
fn keep_previous(path: &Path, previous: &Path) -> io::Result<()> {
    let second = beside(path, ".1.tmp");
    match fs::remove_file(&second) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // One that a crash has left is another name of what must not be written over.
        _ => {}
    }
    match fs::hard_link(path, &second) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => {}
        // Not every file system has second names.
        Err(_) => write_whole(&second, &fs::read(path)?)?,
    }
    fs::rename(&second, previous)
}

/// Waits until the disk has the names in a file's folder.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// Writes a file and waits until the disk has it.
pub(super) fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
