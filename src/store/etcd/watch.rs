//! The news of etcd: everything once, then what changes, and a look every other second whether something was missed.
//!
//! ```text
//!  read all (linearizable) ─▶ revision r ─▶ watch from r + 1 ──a line──▶ applied, r grows
//!        ▲                                     │ silent for 2 s, or ended
//!        │ compacted, cancelled,               ▼
//!        │ fewer keys than known,            look: what was written after r?  how many keys are there?
//!        └ etcd older than r ◀───────────────  nothing: r is what was looked at ─▶ the watch goes on
//! ```
//!
//! A connection that is half dead looks like one on which nothing happens, so silence is never believed: the look asks for what
//! was written after the last known revision, by a call of its own, and moves the watch to another member if its own did not answer.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::calls::{Etcd, LEADER, PROXIES, RECORDS, Row, TOPOLOGY, revision_of, row, rows};
use crate::store::fleet::{Leader, ProxyRecord, RECORDS_MAX, Revision, Snapshot, Stored, Term, Watch};
use crate::store::gateway::{Lines, number};
use crate::store::{Answer, StoreError};
use crate::topology::Topology;

/// So long a watch may be silent before somebody looks.
const SILENCE: Duration = Duration::from_secs(2);
/// Before a watch that ended is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Proxies that are kept in mind.
const PROXIES_MAX: usize = 1024;

/// News of one cluster's keys.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    etcd: Arc<Etcd>,
    snapshot: Arc<Snapshot>,
    /// Whether the snapshot is one.
    known: bool,
    /// Keys that there are, those that mean nothing included.
    keys: i64,
    lines: Option<Lines>,
    /// When it was last certain that nothing is missing.
    heard: Instant,
    resyncs: u64,
    /// The last call had no answer; that there is one again is news.
    failed: bool,
}

/// What a line of the watch says.
enum Line {
    Nothing,
    News,
    /// It has ended, or cannot go on from where it is.
    Ended,
}

impl EtcdWatch {
    pub(super) fn new(etcd: Arc<Etcd>) -> Self {
        Self {
            etcd,
            snapshot: Arc::default(),
            known: false,
            keys: 0,
            lines: None,
            heard: Instant::now(),
            resyncs: 0,
            failed: false,
        }
    }

    async fn follow_and_tell(&mut self) -> Result<Arc<Snapshot>, StoreError> {
        let followed = self.follow().await;
        self.failed = followed.is_err();
        followed
    }

    async fn follow(&mut self) -> Result<Arc<Snapshot>, StoreError> {
        loop {
            if !self.known {
                self.read_all().await?;
                return Ok(Arc::clone(&self.snapshot));
            }
            let Some(lines) = &mut self.lines else {
                self.open().await?;
                if self.failed {
                    return Ok(Arc::clone(&self.snapshot));
                }
                continue;
            };
            let news = match timeout_at(self.heard + SILENCE, lines.next()).await {
                Ok(Ok(line)) => match self.take(&line) {
                    Line::Nothing => false,
                    Line::News => true,
                    Line::Ended => {
                        self.forget("the watch was cancelled");
                        continue;
                    }
                },
                Ok(Err(why)) => {
                    tracing::debug!(event = "store_watch_ended", why);
                    self.lines = None;
                    sleep(PAUSE).await;
                    self.look().await?
                }
                Err(_) => self.look().await?,
            };
            if news || self.failed {
                return Ok(Arc::clone(&self.snapshot));
            }
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let mut create = self.etcd.all("");
        create["start_revision"] = (self.snapshot.revision.0 + 1).to_string().into();
        let opened = self
            .etcd
            .gateway
            .watch(&json!({ "create_request": create }))
            .await;
        self.lines = Some(opened.map_err(|error| self.etcd.failed(error))?);
        Ok(())
    }

    /// From now on nothing is known.
    fn forget(&mut self, why: &str) {
        tracing::debug!(event = "store_resync", why);
        self.resyncs += 1;
        self.known = false;
        self.lines = None;
    }

    async fn read_all(&mut self) -> Result<(), StoreError> {
        let answer = self.etcd.call("kv/range", &self.etcd.all("")).await?;
        let mut snapshot = Snapshot {
            revision: revision_of(&answer),
            ..Snapshot::default()
        };
        let rows = rows(&answer);
        self.keys = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        for row in rows {
            put(&self.etcd, &mut snapshot, row);
        }
        self.snapshot = Arc::new(snapshot);
        self.known = true;
        self.heard = Instant::now();
        Ok(())
    }

    /// Whether something was missed, which is put right then.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let mut question = self.etcd.all("");
        let since = self.snapshot.revision;
        question["min_mod_revision"] = (since.0 + 1).to_string().into();
        let answer = self.etcd.call_promptly("kv/range", &question).await?;
        let (now, count) = (revision_of(&answer), number(answer.get("count")).unwrap_or(0));
        if now < since {
            tracing::warn!(
                event = "store_went_back",
                "etcd is older than what it has said: it was restored"
            );
        }
        if now < since || !rows(&answer).is_empty() || count != self.keys {
            self.forget("changes were missed");
            self.read_all().await?;
            return Ok(true);
        }
        Arc::make_mut(&mut self.snapshot).revision = now;
        self.heard = Instant::now();
        if self
            .lines
            .as_ref()
            .is_some_and(|lines| !self.etcd.gateway.is_preferred(lines))
        {
            self.lines = None;
        }
        Ok(false)
    }

    fn take(&mut self, line: &Value) -> Line {
        let Some(result) = line.get("result") else {
            return Line::Ended;
        };
        if result.get("canceled").and_then(Value::as_bool) == Some(true) {
            return Line::Ended;
        }
        self.heard = Instant::now();
        let since = self.snapshot.revision.0;
        let events = result.get("events").and_then(Value::as_array);
        let mut news = false;
        for event in events.into_iter().flatten() {
            let row = row(event.get("kv").unwrap_or(&Value::Null));
            // What a look has seen already.
            if row.modified <= since {
                continue;
            }
            news = true;
            let snapshot = Arc::make_mut(&mut self.snapshot);
            snapshot.revision = snapshot.revision.max(Revision(row.modified));
            if event.get("type").and_then(Value::as_str) == Some("DELETE") {
                self.keys -= 1;
                delete(&self.etcd, snapshot, &row);
            } else {
                self.keys += i64::from(row.created == row.modified);
                put(&self.etcd, snapshot, row);
            }
        }
        if news { Line::News } else { Line::Nothing }
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> Answer<'_, Arc<Snapshot>> {
        Box::pin(self.follow_and_tell())
    }

    fn resyncs(&self) -> u64 {
        self.resyncs
    }
}

fn put(etcd: &Etcd, snapshot: &mut Snapshot, row: Row) {
    let Some(name) = etcd.name(&row.key) else {
        return;
    };
    if name == TOPOLOGY {
        let (topology, damaged) = match Topology::decode(&row.value) {
            Ok(topology) => (Some(Arc::new(topology)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let revision = Revision(row.modified);
        snapshot.stored = Stored { topology, revision };
        snapshot.damaged = damaged;
    } else if name == LEADER {
        snapshot.leader = Some(Leader {
            id: String::from_utf8_lossy(&row.value).into_owned(),
            term: Term(row.created),
        });
    } else if let Some(id) = name.strip_prefix(PROXIES) {
        let record = ProxyRecord::decode(&row.value).filter(|record| record.id == id);
        let is_known = snapshot.proxies.contains_key(id);
        if let Some(record) = record.filter(|_| is_known || snapshot.proxies.len() < PROXIES_MAX) {
            snapshot.proxies.insert(id.to_owned(), record);
        }
    } else if name.starts_with(RECORDS)
        && let Some(record) = etcd.record(row)
        && (snapshot.records.contains_key(&record.id) || snapshot.records.len() < RECORDS_MAX)
    {
        snapshot.records.insert(record.id.clone(), Arc::new(record));
    }
}

fn delete(etcd: &Etcd, snapshot: &mut Snapshot, row: &Row) {
    let Some(name) = etcd.name(&row.key) else {
        return;
    };
    if name == TOPOLOGY {
        snapshot.stored = Stored::default();
        snapshot.damaged = None;
    } else if name == LEADER {
        snapshot.leader = None;
    } else if let Some(id) = name.strip_prefix(PROXIES) {
        snapshot.proxies.remove(id);
    } else if let Some(id) = name.strip_prefix(RECORDS) {
        snapshot.records.remove(id);
    }
}
