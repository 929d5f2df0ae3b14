//! Where the topology outlives the process.
//!
//! ```text
//!  load ──▶ nothing yet, a topology, or a refusal that says how to restore; never a guess
//!  save ──▶ only a higher epoch of the same cluster, and only over what was loaded; on return it survives a power cut
//!
//!  file:PATH       one proxy: an exclusive lock, fsync and rename               FileStore
//!  etcd://…/NAME   several proxies: linearizable reads, compare-and-set         EtcdStore
//!
//!  TopologyStore   at the start, one owner            ── into_fleet ──▶   FleetStore   while serving, several tasks
//! ```
//!
//! * `fleet.rs`: what proxies tell each other ([`FleetStore`], [`Watch`]); `local.rs`: for a proxy that is alone; `disk.rs`: its file, in turn.
//! * `etcd.rs`, `etcd/`: keys, transactions, leases, the watch; `gateway.rs`: how etcd is asked.
//!
//! The store is the only record of which keys live where, so that every doubt is a refusal: a file that
//! cannot be read, a newer format, damage, or a main file that vanished while its previous version is
//! still there. All calls belong on the control side, never on a worker. While a proxy serves, none of them blocks a thread of the
//! control runtime; at the start there is nothing yet that could be held up.

mod disk;
mod error;
mod etcd;
mod file;
mod fleet;
mod gateway;
mod local;
mod secret;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use error::StoreError;
pub use etcd::EtcdStore;
pub use file::FileStore;
pub use fleet::{
    Ballot, FleetStore, Leader, Lease, ProxyRecord, RECORD_BYTES_MAX, RECORD_ID_MAX, RECORDS_MAX, Record,
    Revision, Snapshot, Stored, Term, Watch,
};
pub use gateway::EtcdAccess;

use crate::ids::Epoch;
use crate::topology::Topology;

/// What a store answers, in its time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place for the topology.
pub trait TopologyStore: Send + std::fmt::Debug {
    /// What is stored; nothing if the store is new.
    ///
    /// # Errors
    /// There is something that cannot be trusted, or the store cannot be asked.
    fn load(&mut self) -> Answer<'_, Option<Topology>>;

    /// Stores a newer version over the one that was loaded or saved last. When this returns well, the version survives a
    /// power cut.
    ///
    /// # Errors
    /// Refusals, and failures. After [`StoreError::Unconfirmed`], and without an answer ([`StoreError::is_unanswered`]), the new
    /// version may be stored.
    fn save<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()>;

    /// Stores a topology over whatever is there, readable or not: for an operator who has looked. The version before is kept
    /// if it can be read.
    ///
    /// # Errors
    /// As [`Self::save`], but for what is stored.
    fn restore<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()>;

    /// Where it is, for people.
    fn place(&self) -> String;

    /// The same store, for the tasks of a proxy that serves.
    ///
    /// # Errors
    /// What a file store keeps beside its file cannot be read or written.
    fn into_fleet(self: Box<Self>) -> Result<Arc<dyn FleetStore>, StoreError>;
}

/// Whether a topology may replace what is stored.
fn check_successor(topology: &Topology, stored: Option<&(String, Epoch)>) -> Result<(), StoreError> {
    let Some((cluster, epoch)) = stored else {
        return Ok(());
    };
    if *cluster != topology.cluster_id {
        let (cluster, stored) = (topology.cluster_id.clone(), cluster.clone());
        return Err(StoreError::OtherCluster { cluster, stored });
    }
    if topology.epoch <= *epoch {
        return Err(StoreError::Stale {
            epoch: topology.epoch,
            stored: *epoch,
        });
    }
    Ok(())
}
