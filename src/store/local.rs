//! What several proxies have in etcd, for one that is alone with a file.
//!
//! ```text
//!  PATH            the topology                     FileStore
//!  PATH.term       starts of a proxy, counted: this one's number is its term, and it always leads
//!  PATH.secret     of which the passwords of preshard's users on nodes are made
//!  PATH.tasks/ID.json     records                   write ID.tmp ▶ fsync ▶ rename ▶ fsync folder
//! ```
//!
//! Nothing changes behind its back: what the watch tells is what this process did. All that touches the file takes its turn
//! ([`Disk`]); leases and registrations are a matter of memory, and wait for no disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::disk::{Disk, Pulse};
use super::file::{beside, read, sync_folder, write_whole};
use super::fleet::{
    Ballot, FleetStore, Leader, Lease, ProxyRecord, RECORD_BYTES_MAX, RECORDS_MAX, Record, Revision,
    Snapshot, Stored, Term, Watch, check_count, check_record, is_record_id,
};
use super::{Answer, FileStore, StoreError, check_successor, secret};
use crate::config::Secret;
use crate::topology::Topology;

/// Files have no revisions of their own. What was there at the start has this one.
const FIRST: Revision = Revision(1);

/// A file, shared by the tasks of its proxy.
#[derive(Debug)]
pub(super) struct LocalFleet {
    disk: Disk,
    known: Arc<Known>,
}

/// What is in the file and beside it, as far as this process has been told that it is.
#[derive(Debug)]
struct Known {
    /// As it is told to whoever watches. What the file has of it changes only in the file's turn.
    snapshot: Mutex<Snapshot>,
    news: watch::Sender<Arc<Snapshot>>,
    folder: PathBuf,
    term: Term,
    place: String,
}

impl LocalFleet {
    /// Counts this start, and reads what is there. Called before anything is served, so it may wait for the disk.
    pub(super) fn open(mut file: FileStore) -> Result<Self, StoreError> {
        let term = next_term(&beside(file.path(), ".term"))?;
        let folder = beside(file.path(), ".tasks");
        let place = format!("file:{}", file.path().display());
        let mut snapshot = Snapshot {
            revision: FIRST,
            stored: stored(file.load()?, FIRST),
            ..Snapshot::default()
        };
        for record in read_records(&folder)? {
            snapshot.records.insert(record.id.clone(), Arc::new(record));
        }
        let known = Known {
            news: watch::Sender::new(Arc::new(snapshot.clone())),
            snapshot: Mutex::new(snapshot),
            folder,
            term,
            place: place.clone(),
        };
        Ok(Self {
            disk: Disk::new(file, place),
            known: Arc::new(known),
        })
    }

    /// What is known behind all that was asked before.
    async fn look<T>(&self, at: impl FnOnce(&Snapshot) -> T) -> Result<T, StoreError> {
        self.disk.settled().await?;
        Ok(at(&self.known.snapshot()))
    }
}

impl Known {
    fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change known; its revision.
    fn tell(&self, change: impl FnOnce(&mut Snapshot, Revision)) -> Revision {
        let mut snapshot = self.snapshot();
        let revision = Revision(snapshot.revision.0 + 1);
        snapshot.revision = revision;
        change(&mut snapshot, revision);
        self.news.send_replace(Arc::new(snapshot.clone()));
        revision
    }

    fn check_term(&self, term: Option<Term>) -> Result<(), StoreError> {
        if term.is_none_or(|term| term == self.term) {
            return Ok(());
        }
        Err(StoreError::Deposed {
            place: self.place.clone(),
        })
    }

    fn changed(&self) -> StoreError {
        StoreError::Changed {
            place: self.place.clone(),
        }
    }

    fn save(
        &self,
        file: &mut FileStore,
        topology: Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Revision, StoreError> {
        self.check_term(term)?;
        if self.snapshot().stored.revision != over {
            return Err(self.changed());
        }
        let unconfirmed = match file.save(&topology) {
            Ok(()) => None,
            Err(error @ StoreError::Unconfirmed { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        let written = self.tell(|snapshot, revision| {
            snapshot.stored = stored(Some(topology), revision);
        });
        unconfirmed.map_or(Ok(written), Err)
    }

    fn put(
        &self,
        id: String,
        document: String,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Revision, StoreError> {
        check_record(&id, &document)?;
        self.check_term(term)?;
        let (present, count) = {
            let records = &self.snapshot().records;
            (records.get(&id).map(|record| record.revision), records.len())
        };
        if present.unwrap_or_default() != over {
            return Err(self.changed());
        }
        if present.is_none() {
            check_count(count)?;
        }
        write_file(&self.folder, &id, document.as_bytes())?;
        Ok(self.tell(|snapshot, revision| {
            let record = Record {
                id: id.clone(),
                document,
                revision,
            };
            snapshot.records.insert(id, Arc::new(record));
        }))
    }

    fn delete(&self, id: &str, over: Revision, term: Option<Term>) -> Result<(), StoreError> {
        check_record(id, "")?;
        self.check_term(term)?;
        let present = self.snapshot().records.get(id).map(|record| record.revision);
        match present {
            None => return Ok(()),
            Some(revision) if revision != over => return Err(self.changed()),
            Some(_) => {}
        }
        let path = self.folder.join(format!("{id}.json"));
        fs::remove_file(&path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(told("delete", &path))?;
        self.tell(|snapshot, _| {
            snapshot.records.remove(id);
        });
        Ok(())
    }
}

impl FleetStore for LocalFleet {
    fn place(&self) -> String {
        self.known.place.clone()
    }

    fn load(&self) -> Answer<'_, Stored> {
        Box::pin(self.look(|snapshot| snapshot.stored.clone()))
    }

    fn stage<'a>(&'a self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(async {
            let topology = topology.clone();
            self.disk.ask(move |file| file.stage(&topology)).await
        })
    }

    fn save<'a>(
        &'a self,
        topology: &'a Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            let (known, topology) = (Arc::clone(&self.known), topology.clone());
            let save = move |file: &mut FileStore| known.save(file, topology, over, term);
            self.disk.ask(save).await
        })
    }

    fn was_saved<'a>(&'a self, topology: &'a Topology, _since: Revision) -> Answer<'a, Option<bool>> {
        // Nobody else writes, so what was saved is there.
        let is_there = |snapshot: &Snapshot| Some(snapshot.stored.topology.as_deref() == Some(topology));
        Box::pin(self.look(is_there))
    }

    fn secret(&self) -> Answer<'_, Secret> {
        Box::pin(
            self.disk
                .ask(|file| secret::in_file(&beside(file.path(), ".secret"))),
        )
    }

    fn watch(&self) -> Box<dyn Watch> {
        let mut news = self.known.news.subscribe();
        news.mark_changed();
        Box::new(LocalWatch {
            news,
            pulse: self.disk.pulse(),
        })
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        Box::pin(ready(Ok(Lease { id: 0, ttl })))
    }

    fn keep_alive(&self, _lease: Lease) -> Answer<'_, bool> {
        Box::pin(ready(Ok(true)))
    }

    fn revoke(&self, _lease: Lease) -> Answer<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn register<'a>(&'a self, _lease: Lease, record: &'a ProxyRecord) -> Answer<'a, Revision> {
        let written = self.known.tell(|snapshot, _| {
            snapshot.proxies = BTreeMap::from([(record.id.clone(), record.clone())]);
        });
        Box::pin(ready(Ok(written)))
    }

    fn campaign<'a>(&'a self, _lease: Lease, id: &'a str) -> Answer<'a, Ballot> {
        let (id, term) = (id.to_owned(), self.known.term);
        let written = self.known.tell(|snapshot, _| {
            snapshot.leader = Some(Leader { id, term });
        });
        Box::pin(ready(Ok(Ballot::Won(term, written))))
    }

    fn records(&self) -> Answer<'_, Vec<Record>> {
        Box::pin(self.look(|snapshot| {
            let records = snapshot.records.values();
            records.map(|record| Record::clone(record)).collect()
        }))
    }

    fn record<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            check_record(id, "")?;
            let found = self.look(|snapshot| snapshot.records.get(id).cloned()).await?;
            Ok(found.map(Arc::unwrap_or_clone))
        })
    }

    fn put_record<'a>(
        &'a self,
        id: &'a str,
        document: &'a str,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            let known = Arc::clone(&self.known);
            let (id, document) = (id.to_owned(), document.to_owned());
            self.disk.ask(move |_| known.put(id, document, over, term)).await
        })
    }

    fn delete_record<'a>(&'a self, id: &'a str, over: Revision, term: Option<Term>) -> Answer<'a, ()> {
        Box::pin(async move {
            let (known, id) = (Arc::clone(&self.known), id.to_owned());
            self.disk.ask(move |_| known.delete(&id, over, term)).await
        })
    }
}

/// What this process did, and whether the disk answers.
#[derive(Debug)]
struct LocalWatch {
    news: watch::Receiver<Arc<Snapshot>>,
    pulse: Pulse,
}

impl Watch for LocalWatch {
    fn next(&mut self) -> Answer<'_, Arc<Snapshot>> {
        Box::pin(async {
            tokio::select! {
                biased;
                stalled = self.pulse.stalled() => {
                    // Once the disk answers that is news, whatever came of what it was at.
                    self.news.mark_changed();
                    return Err(stalled);
                }
                changed = self.news.changed() => if changed.is_err() {
                    // The store is gone, so there will never be news again.
                    std::future::pending::<()>().await;
                }
            }
            Ok(Arc::clone(&self.news.borrow_and_update()))
        })
    }

    fn resyncs(&self) -> u64 {
        0
    }
}

fn stored(topology: Option<Topology>, revision: Revision) -> Stored {
    match topology {
        None => Stored::default(),
        Some(topology) => Stored {
            topology: Some(Arc::new(topology)),
            revision,
        },
    }
}

fn told<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |error| StoreError::Io {
        doing,
        path: path.to_owned(),
        error,
    }
}

/// The number of this start.
fn next_term(path: &Path) -> Result<Term, StoreError> {
    let before = match read(path)? {
        None => 0,
        Some(text) => {
            let number = std::str::from_utf8(&text).ok();
            number
                .and_then(|text| text.trim().parse::<i64>().ok())
                .ok_or_else(|| {
                    let what =
                        "it is no number; write one that is greater than any before, such as the Unix time";
                    told("use", path)(io::Error::new(io::ErrorKind::InvalidData, what))
                })?
        }
    };
    let term = Term(before.saturating_add(1));
    replace(path, term.to_string().as_bytes())?;
    Ok(term)
}

/// Replaces a small file as a whole.
fn replace(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let next = beside(path, ".tmp");
    write_whole(&next, text)
        .and_then(|()| fs::rename(&next, path))
        .and_then(|()| sync_folder(path))
        .map_err(told("write", path))
}

fn write_file(folder: &Path, id: &str, text: &[u8]) -> Result<(), StoreError> {
    fs::create_dir_all(folder).map_err(told("make", folder))?;
    replace(&folder.join(format!("{id}.json")), text)
}

/// All records of a folder. What is none is left alone.
fn read_records(folder: &Path) -> Result<Vec<Record>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(told("read", folder)(error)),
    };
    let mut records = Vec::new();
    for entry in entries.take(RECORDS_MAX * 4) {
        let path = entry.map_err(told("read", folder))?.path();
        let id = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        if path.extension() != Some(OsStr::new("json")) || !is_record_id(id) || records.len() >= RECORDS_MAX {
            continue;
        }
        let text = read(&path)?.unwrap_or_default();
        let document = String::from_utf8(text)
            .ok()
            .filter(|text| text.len() <= RECORD_BYTES_MAX);
        let document = document.ok_or_else(|| {
            let what = "it is no record of preshard; move it away";
            told("use", &path)(io::Error::new(io::ErrorKind::InvalidData, what))
        })?;
        records.push(Record {
            id: id.to_owned(),
            document,
            revision: FIRST,
        });
    }
    Ok(records)
}

/// Whether a topology may go over whatever the file has.
pub(super) fn restore(file: &mut FileStore, topology: &Topology) -> Result<(), StoreError> {
    match FileStore::peek(file.path()) {
        Ok(found) => {
            let found = found.map(|found| (found.cluster_id, found.epoch));
            check_successor(topology, found.as_ref())?;
        }
        Err(StoreError::Unreadable { .. } | StoreError::Vanished { .. }) => {}
        Err(error) => return Err(error),
    }
    file.overwrite(topology)
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
