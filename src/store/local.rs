//! What several proxies have in etcd, for one that is alone with a file.
//!
//! ```text
//!  PATH            the topology                     FileStore
//!  PATH.term       starts of a proxy, counted: this one's number is its term, and it always leads
//!  PATH.secret     of which the passwords of preshard's users on nodes are made
//!  PATH.tasks/ID.json     records                   write ID.tmp ▶ fsync ▶ rename ▶ fsync folder
//! ```
//!
//! Nothing changes behind its back: what the watch tells is what this process did.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::future::ready;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

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
    state: Mutex<State>,
    news: watch::Sender<Arc<Snapshot>>,
    folder: PathBuf,
    term: Term,
    place: String,
}

#[derive(Debug)]
struct State {
    file: FileStore,
    /// As it is told to whoever watches.
    snapshot: Snapshot,
}

impl LocalFleet {
    /// Counts this start, and reads what is there.
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
        Ok(Self {
            news: watch::Sender::new(Arc::new(snapshot.clone())),
            state: Mutex::new(State { file, snapshot }),
            folder,
            term,
            place,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change known; its revision.
    fn tell(&self, state: &mut State, change: impl FnOnce(&mut Snapshot, Revision)) -> Revision {
        let revision = Revision(state.snapshot.revision.0 + 1);
        state.snapshot.revision = revision;
        change(&mut state.snapshot, revision);
        self.news.send_replace(Arc::new(state.snapshot.clone()));
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

    fn save_now(
        &self,
        topology: &Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Revision, StoreError> {
        self.check_term(term)?;
        let mut state = self.state();
        if state.snapshot.stored.revision != over {
            return Err(self.changed());
        }
        let outcome = state.file.save(topology);
        if matches!(outcome, Ok(()) | Err(StoreError::Unconfirmed { .. })) {
            let topology = Some(topology.clone());
            self.tell(&mut state, |snapshot, revision| {
                snapshot.stored = stored(topology, revision);
            });
        }
        outcome.map(|()| state.snapshot.stored.revision)
    }

    fn put_now(
        &self,
        id: &str,
        document: &str,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Revision, StoreError> {
        check_record(id, document)?;
        self.check_term(term)?;
        let mut state = self.state();
        let present = state.snapshot.records.get(id).map(|record| record.revision);
        if present.unwrap_or_default() != over {
            return Err(self.changed());
        }
        if present.is_none() {
            check_count(state.snapshot.records.len())?;
        }
        write_file(&self.folder, id, document.as_bytes())?;
        Ok(self.tell(&mut state, |snapshot, revision| {
            let record = Record {
                id: id.to_owned(),
                document: document.to_owned(),
                revision,
            };
            snapshot.records.insert(id.to_owned(), Arc::new(record));
        }))
    }

    fn delete_now(&self, id: &str, over: Revision, term: Option<Term>) -> Result<(), StoreError> {
        check_record(id, "")?;
        self.check_term(term)?;
        let mut state = self.state();
        let Some(record) = state.snapshot.records.get(id) else {
            return Ok(());
        };
        if record.revision != over {
            return Err(self.changed());
        }
        let path = self.folder.join(format!("{id}.json"));
        fs::remove_file(&path)
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(told("delete", &path))?;
        self.tell(&mut state, |snapshot, _| {
            snapshot.records.remove(id);
        });
        Ok(())
    }
}

impl FleetStore for LocalFleet {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn load(&self) -> Answer<'_, Stored> {
        Box::pin(ready(Ok(self.state().snapshot.stored.clone())))
    }

    fn stage<'a>(&'a self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(ready(self.state().file.stage(topology)))
    }

    fn save<'a>(
        &'a self,
        topology: &'a Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        Box::pin(ready(self.save_now(topology, over, term)))
    }

    fn was_saved<'a>(&'a self, topology: &'a Topology, _since: Revision) -> Answer<'a, Option<bool>> {
        // Nobody else writes, so what was saved is there.
        let is_there = self.state().snapshot.stored.topology.as_deref() == Some(topology);
        Box::pin(ready(Ok(Some(is_there))))
    }

    fn secret(&self) -> Answer<'_, Secret> {
        Box::pin(ready(secret::in_file(&beside(
            self.state().file.path(),
            ".secret",
        ))))
    }

    fn watch(&self) -> Box<dyn Watch> {
        let mut news = self.news.subscribe();
        news.mark_changed();
        Box::new(LocalWatch { news })
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
        let written = self.tell(&mut self.state(), |snapshot, _| {
            snapshot.proxies = BTreeMap::from([(record.id.clone(), record.clone())]);
        });
        Box::pin(ready(Ok(written)))
    }

    fn campaign<'a>(&'a self, _lease: Lease, id: &'a str) -> Answer<'a, Ballot> {
        let (id, term) = (id.to_owned(), self.term);
        let written = self.tell(&mut self.state(), |snapshot, _| {
            snapshot.leader = Some(Leader { id, term });
        });
        Box::pin(ready(Ok(Ballot::Won(term, written))))
    }

    fn records(&self) -> Answer<'_, Vec<Record>> {
        let state = self.state();
        let records = state.snapshot.records.values();
        let records: Vec<Record> = records.map(|record| Record::clone(record)).collect();
        Box::pin(ready(Ok(records)))
    }

    fn record<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Record>> {
        let record = self.state().snapshot.records.get(id).cloned();
        Box::pin(ready(
            check_record(id, "").map(|()| record.map(Arc::unwrap_or_clone)),
        ))
    }

    fn put_record<'a>(
        &'a self,
        id: &'a str,
        document: &'a str,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        Box::pin(ready(self.put_now(id, document, over, term)))
    }

    fn delete_record<'a>(&'a self, id: &'a str, over: Revision, term: Option<Term>) -> Answer<'a, ()> {
        Box::pin(ready(self.delete_now(id, over, term)))
    }
}

/// What this process did.
#[derive(Debug)]
struct LocalWatch {
    news: watch::Receiver<Arc<Snapshot>>,
}

impl Watch for LocalWatch {
    fn next(&mut self) -> Answer<'_, Arc<Snapshot>> {
        Box::pin(async {
            if self.news.changed().await.is_err() {
                // The store is gone, so there will never be news again.
                std::future::pending::<()>().await;
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
