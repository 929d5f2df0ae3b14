//! The topology in etcd, for several proxies.
//!
//! ```text
//!  /PREFIX/topology    the document, the same as in a file
//!  /PREFIX/proxies/ID  what each proxy says of itself, under its lease
//!  /PREFIX/leader      who leads, under its lease; the term is the key's create-revision
//!  /PREFIX/tasks/ID    small documents
//!  /PREFIX/secret      of which the passwords of preshard's users on nodes are made
//!
//!  load   a linearizable read; remembers the revision
//!  save   txn: only if the revision is still the one that was read (0: only if there is nothing yet)
//!           lost answer ─▶ asked again, which is harmless: if it was done, what is stored is what was to be saved
//! ```
//!
//! etcd keeps its history and its own backups; nothing is copied here. `calls.rs` is what is asked of it, `watch.rs` its news.

mod calls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use super::fleet::{
    Ballot, FleetStore, Lease, ProxyRecord, Record, Revision, Stored, Term, Watch, check_record,
};
use super::gateway::EtcdAccess;
use super::{Answer, StoreError, TopologyStore, secret};
use crate::config::Secret;
use crate::ids::Epoch;
use crate::topology::Topology;
use calls::{Etcd, RECORDS, Row, SECRET, TOPOLOGY};
use watch::EtcdWatch;

/// A topology in etcd.
#[derive(Debug)]
pub struct EtcdStore {
    etcd: Arc<Etcd>,
    /// Revision of what was read or written last; 0 if there was nothing.
    revision: Option<Revision>,
    /// Cluster and epoch of it.
    stored: Option<(String, Epoch)>,
}

impl EtcdStore {
    /// A store below `prefix`. Nothing is asked yet.
    #[must_use]
    pub fn new(access: EtcdAccess, prefix: &str) -> Self {
        Self {
            etcd: Arc::new(Etcd::new(access, prefix)),
            revision: None,
            stored: None,
        }
    }

    async fn read(&mut self) -> Result<Option<Topology>, StoreError> {
        let row = self.etcd.read(TOPOLOGY).await?;
        self.revision = Some(row.as_ref().map_or(Revision::NONE, |row| Revision(row.modified)));
        let topology = row.map(|row| decode(&self.etcd, &row)).transpose()?;
        self.stored = topology
            .as_ref()
            .map(|topology| (topology.cluster_id.clone(), topology.epoch));
        Ok(topology)
    }

    async fn write(&mut self, topology: &Topology) -> Result<(), StoreError> {
        topology.validate().map_err(StoreError::Invalid)?;
        if self.revision.is_none() {
            self.read().await?;
        }
        super::check_successor(topology, self.stored.as_ref())?;
        self.put(topology, self.revision.unwrap_or_default()).await
    }

    async fn put(&mut self, topology: &Topology, over: Revision) -> Result<(), StoreError> {
        // Whatever comes after a failure is decided by what etcd has then.
        self.revision = None;
        self.stored = None;
        let document = topology.encode();
        let written = self.etcd.put_over(TOPOLOGY, &document, over, None).await?;
        self.revision = Some(written);
        self.stored = Some((topology.cluster_id.clone(), topology.epoch));
        Ok(())
    }

    async fn overwrite(&mut self, topology: &Topology) -> Result<(), StoreError> {
        topology.validate().map_err(StoreError::Invalid)?;
        let row = self.etcd.read(TOPOLOGY).await?;
        let over = row.map_or(Revision::NONE, |row| Revision(row.modified));
        self.put(topology, over).await
    }
}

impl TopologyStore for EtcdStore {
    fn load(&mut self) -> Answer<'_, Option<Topology>> {
        Box::pin(self.read())
    }

    fn save<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(self.write(topology))
    }

    fn restore<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(self.overwrite(topology))
    }

    fn place(&self) -> String {
        self.etcd.place()
    }

    fn into_fleet(self: Box<Self>) -> Result<Arc<dyn FleetStore>, StoreError> {
        Ok(Arc::new(EtcdFleet { etcd: self.etcd }))
    }
}

/// The same keys, for the tasks of a proxy that serves.
#[derive(Debug)]
struct EtcdFleet {
    etcd: Arc<Etcd>,
}

impl FleetStore for EtcdFleet {
    fn place(&self) -> String {
        self.etcd.place()
    }

    fn load(&self) -> Answer<'_, Stored> {
        Box::pin(async {
            let Some(row) = self.etcd.read(TOPOLOGY).await? else {
                return Ok(Stored::default());
            };
            Ok(Stored {
                topology: Some(Arc::new(decode(&self.etcd, &row)?)),
                revision: Revision(row.modified),
            })
        })
    }

    fn save<'a>(
        &'a self,
        topology: &'a Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            topology.validate().map_err(StoreError::Invalid)?;
            let document = topology.encode();
            self.etcd.put_over(TOPOLOGY, &document, over, term).await
        })
    }

    fn was_saved<'a>(&'a self, topology: &'a Topology, since: Revision) -> Answer<'a, Option<bool>> {
        Box::pin(async move { self.etcd.has_held(TOPOLOGY, &topology.encode(), since).await })
    }

    fn secret(&self) -> Answer<'_, Secret> {
        Box::pin(async {
            let refused = |why: &str| StoreError::Refused {
                place: self.etcd.place(),
                why: format!("its secret ({SECRET}): {why}"),
            };
            let found = match self.etcd.read(SECRET).await? {
                Some(row) => row.value,
                None => {
                    let new = secret::random().map_err(|error| refused(&error.to_string()))?;
                    match self.etcd.put_over(SECRET, &new, Revision::NONE, None).await {
                        Ok(_) => new.into_bytes(),
                        // Another proxy was first.
                        Err(StoreError::Changed { .. }) => {
                            self.etcd.read(SECRET).await?.unwrap_or_default().value
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            secret::decode(&found).ok_or_else(|| refused("it is no secret of preshard; restore it"))
        })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(EtcdWatch::new(Arc::clone(&self.etcd)))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        Box::pin(self.etcd.grant(ttl))
    }

    fn keep_alive(&self, lease: Lease) -> Answer<'_, bool> {
        Box::pin(self.etcd.keep_alive(lease))
    }

    fn revoke(&self, lease: Lease) -> Answer<'_, ()> {
        Box::pin(self.etcd.revoke(lease))
    }

    fn register<'a>(&'a self, lease: Lease, record: &'a ProxyRecord) -> Answer<'a, Revision> {
        Box::pin(self.etcd.register(lease, record))
    }

    fn campaign<'a>(&'a self, lease: Lease, id: &'a str) -> Answer<'a, Ballot> {
        Box::pin(self.etcd.campaign(lease, id))
    }

    fn records(&self) -> Answer<'_, Vec<Record>> {
        Box::pin(self.etcd.records())
    }

    fn record<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Record>> {
        Box::pin(async move {
            check_record(id, "")?;
            let row = self.etcd.read(&format!("{RECORDS}{id}")).await?;
            Ok(row.and_then(|row| self.etcd.record(row)))
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
            check_record(id, document)?;
            if over == Revision::NONE {
                self.etcd.check_room_for_a_record().await?;
            }
            let name = format!("{RECORDS}{id}");
            self.etcd.put_over(&name, document, over, term).await
        })
    }

    fn delete_record<'a>(&'a self, id: &'a str, over: Revision, term: Option<Term>) -> Answer<'a, ()> {
        Box::pin(async move {
            check_record(id, "")?;
            self.etcd.delete_over(&format!("{RECORDS}{id}"), over, term).await
        })
    }
}

fn decode(etcd: &Etcd, row: &Row) -> Result<Topology, StoreError> {
    Topology::decode(&row.value).map_err(|error| StoreError::Document {
        place: etcd.place(),
        error: Box::new(error),
    })
}
