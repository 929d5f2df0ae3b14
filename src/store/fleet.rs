//! What proxies of one cluster tell each other through the store, and what a store must be able to do for that.
//!
//! ```text
//!  topology       written by compare-and-set, by any proxy             Stored
//!  proxies/ID     one for each proxy, gone with its lease              ProxyRecord
//!  leader         one for all, gone with its lease; its term grows     Leader
//!  tasks/ID       small documents, written by compare-and-set          Record
//!                                    │
//!  Watch::next ◀── all of it, each time that something has changed ── Snapshot
//! ```
//!
//! A revision says when something was written last; it only grows. Nothing here is a lock that a proxy may believe in without
//! looking at its clock: a lease ends by itself.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Answer, StoreError};
use crate::config::Secret;
use crate::ids::Epoch;
use crate::topology::Topology;

/// Records of one cluster.
pub const RECORDS_MAX: usize = 256;
/// Bytes of one record. All of them and a topology fit one answer of etcd.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Characters of a record's name.
pub const RECORD_ID_MAX: usize = 64;

/// When something was written last. [`Revision::NONE`]: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub i64);

impl Revision {
    /// There is nothing yet.
    pub const NONE: Self = Self(0);
}

/// A time of leadership. Each is greater than all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term(pub i64);

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What stands in the store as the topology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Nothing if the store is new.
    pub topology: Option<Arc<Topology>>,
    /// When it was written.
    pub revision: Revision,
}

/// What a proxy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// Its run.
    pub id: String,
    /// Where clients reach it.
    pub address: String,
    /// Where operators reach it; empty if nowhere.
    pub admin: String,
    /// The version of preshard.
    pub version: String,
    /// The lowest epoch that one of its workers serves.
    pub epoch: u64,
    /// Clients connected, as of the last refresh.
    pub clients: u64,
    /// Start of the process, Unix seconds.
    pub started: u64,
}

impl ProxyRecord {
    /// The lowest epoch that one of its workers serves.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// Reads a record. What this version does not know is passed over: proxies of several versions run together during an
    /// upgrade.
    #[must_use]
    pub fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The record on one line.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The proxy.
    pub id: String,
    /// Since when.
    pub term: Term,
}

/// A small document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// JSON.
    pub document: String,
    /// When it was written.
    pub revision: Revision,
}

/// All that proxies tell each other, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Everything up to this revision is in it.
    pub revision: Revision,
    /// The topology.
    pub stored: Stored,
    /// Why what stands there as the topology is none.
    pub damaged: Option<String>,
    /// The proxies that live.
    pub proxies: BTreeMap<String, ProxyRecord>,
    /// Nobody while there is no leader.
    pub leader: Option<Leader>,
    /// All records.
    pub records: BTreeMap<String, Arc<Record>>,
}

/// A promise of the store to keep what is written under it for so long after each sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number in the store.
    pub(crate) id: i64,
    /// How long it lasts after a sign of life.
    pub ttl: Duration,
}

/// The outcome of a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballot {
    /// This proxy leads as long as the lease lasts; written at this revision.
    Won(Term, Revision),
    /// Somebody else does.
    Lost,
}

/// News of the store.
pub trait Watch: Send + std::fmt::Debug {
    /// All that there is, the first time; then again each time that something has changed. Nothing is ever left out for longer
    /// than a few seconds, whatever becomes of connections.
    ///
    /// # Errors
    /// The store gives no answer. The next call tries again.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing.
    fn next(&mut self) -> Answer<'_, Arc<Snapshot>>;

    /// How often all had to be read anew, because changes might have been missed.
    fn resyncs(&self) -> u64;
}

/// A store as several proxies use it. Every call may be made by several tasks at a time.
///
/// Without an answer ([`StoreError::is_unanswered`]) nobody knows whether a write was done; asking the same again is always allowed,
/// and tells.
pub trait FleetStore: Send + Sync + std::fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// What is stored at this moment: whatever was acknowledged before the call is in it.
    fn load(&self) -> Answer<'_, Stored>;

    /// Stores a topology over what was written at `over`, and only if `term` (if given) still lasts.
    ///
    /// # Errors
    /// [`StoreError::Changed`], [`StoreError::Deposed`]: nothing was stored. [`StoreError::Unconfirmed`]: it is stored.
    fn save<'a>(&'a self, topology: &'a Topology, over: Revision, term: Option<Term>)
    -> Answer<'a, Revision>;

    /// Does now what can be done of a save that is about to come, so that it takes less time. A save of another topology is not
    /// disturbed.
    ///
    /// # Errors
    /// What was done may be of no use; nothing is stored.
    fn stage<'a>(&'a self, topology: &'a Topology) -> Answer<'a, ()> {
        let _ = topology;
        Box::pin(ready(Ok(())))
    }

    /// Whether exactly this topology was stored at some time after `since`, though it may have been replaced since then.
    /// Nothing if nobody can tell any more.
    fn was_saved<'a>(&'a self, topology: &'a Topology, since: Revision) -> Answer<'a, Option<bool>>;

    /// The cluster's secret; made if there is none.
    ///
    /// # Errors
    /// The store gives no answer, or what it has is none.
    fn secret(&self) -> Answer<'_, Secret>;

    /// News of everything.
    fn watch(&self) -> Box<dyn Watch>;

    /// A new lease.
    fn grant(&self, ttl: Duration) -> Answer<'_, Lease>;

    /// A sign of life; `false` if the lease has ended.
    fn keep_alive(&self, lease: Lease) -> Answer<'_, bool>;

    /// Ends a lease, with all that was written under it.
    fn revoke(&self, lease: Lease) -> Answer<'_, ()>;

    /// Writes what a proxy says of itself.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`].
    fn register<'a>(&'a self, lease: Lease, record: &'a ProxyRecord) -> Answer<'a, Revision>;

    /// Leads, if nobody does.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`].
    fn campaign<'a>(&'a self, lease: Lease, id: &'a str) -> Answer<'a, Ballot>;

    /// All records at this moment, in the order of their names.
    fn records(&self) -> Answer<'_, Vec<Record>>;

    /// One record at this moment.
    fn record<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Record>>;

    /// Writes a record over what was written at `over`, and only if `term` (if given) still lasts.
    ///
    /// # Errors
    /// As [`Self::save`], and [`StoreError::Limit`].
    fn put_record<'a>(
        &'a self,
        id: &'a str,
        document: &'a str,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision>;

    /// Deletes a record that was written at `over`, and only if `term` (if given) still lasts. That it is gone already is well.
    ///
    /// # Errors
    /// As [`Self::save`].
    fn delete_record<'a>(&'a self, id: &'a str, over: Revision, term: Option<Term>) -> Answer<'a, ()>;
}

/// Whether a record may be written at all.
pub(super) fn check_record(id: &str, document: &str) -> Result<(), StoreError> {
    if !is_record_id(id) {
        return Err(StoreError::Limit(format!(
            "'{}' is no name of a record: 1 to {RECORD_ID_MAX} letters, digits, '-' and '_'",
            id.chars().take(RECORD_ID_MAX).collect::<String>()
        )));
    }
    if document.len() > RECORD_BYTES_MAX {
        return Err(StoreError::Limit(format!(
            "record '{id}' has {} bytes, {RECORD_BYTES_MAX} are the limit",
            document.len()
        )));
    }
    Ok(())
}

/// Whether one more record may be written.
pub(super) fn check_count(count: usize) -> Result<(), StoreError> {
    if count < RECORDS_MAX {
        return Ok(());
    }
    Err(StoreError::Limit(format!(
        "there are {count} records already, {RECORDS_MAX} are the limit"
    )))
}

/// Names that are safe as a file's and as a part of a key.
pub(super) fn is_record_id(id: &str) -> bool {
    (1..=RECORD_ID_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_records_lead_out_of_no_folder() {
        for good in ["1", "move-17", "A_b", &"x".repeat(RECORD_ID_MAX)] {
            assert!(check_record(good, "{}").is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a.json",
            "ä",
            "a b",
            &"x".repeat(RECORD_ID_MAX + 1),
        ] {
            assert!(check_record(bad, "{}").is_err(), "{bad}");
        }
        assert!(check_record("a", &"x".repeat(RECORD_BYTES_MAX + 1)).is_err());
        assert!(check_count(RECORDS_MAX - 1).is_ok() && check_count(RECORDS_MAX).is_err());
    }

    #[test]
    fn a_proxy_of_another_version_is_understood() {
        let record = ProxyRecord {
            id: "a".to_owned(),
            epoch: 7,
            ..ProxyRecord::default()
        };
        assert_eq!(
            ProxyRecord::decode(record.encode().as_bytes()),
            Some(record.clone())
        );
        let newer = record.encode().replacen('{', "{\"later\":[1],", 1);
        assert_eq!(ProxyRecord::decode(newer.as_bytes()), Some(record));
        assert_eq!(ProxyRecord::decode(b"{}"), None);
    }
}
