//! The topology in etcd, for several proxies.
//!
//! ```text
//!  /PREFIX/topology   the document, the same as in a file
//!  load   a linearizable read; remembers the revision
//!  save   txn: only if the revision is still the one that was read (0: only if there is nothing yet)
//!           lost answer ─▶ asked again, which is harmless: if it was done, what is stored is what was to be saved
//! ```
//!
//! etcd keeps its history and its own backups; nothing is copied here.

use serde_json::{Value, json};

use super::gateway::{EtcdAccess, Gateway, GatewayError, decoded, encoded, number};
use super::{Answer, StoreError, TopologyStore};
use crate::ids::Epoch;
use crate::topology::Topology;

/// A topology in etcd.
#[derive(Debug)]
pub struct EtcdStore {
    gateway: Gateway,
    key: String,
    /// Revision of what was read or written last; 0 if there was nothing.
    revision: Option<i64>,
    /// Cluster and epoch of it.
    stored: Option<(String, Epoch)>,
}

/// What stands under the key.
#[derive(Debug, Default)]
struct Found {
    revision: i64,
    document: Option<Vec<u8>>,
}

impl EtcdStore {
    /// A store below `prefix`. Nothing is asked yet.
    #[must_use]
    pub fn new(access: EtcdAccess, prefix: &str) -> Self {
        Self {
            gateway: Gateway::new(access),
            key: format!("/{}/topology", prefix.trim_matches('/')),
            revision: None,
            stored: None,
        }
    }

    fn failed(&self, error: GatewayError) -> StoreError {
        let place = self.place();
        match error {
            GatewayError::Unreachable(why) => StoreError::Unreachable { place, why },
            GatewayError::Refused(why) => StoreError::Refused { place, why },
        }
    }

    async fn read(&mut self) -> Result<Option<Topology>, StoreError> {
        let question = json!({ "key": encoded(&self.key) });
        let answer = self.gateway.call("kv/range", &question).await;
        let found = found(&answer.map_err(|error| self.failed(error))?);
        self.revision = Some(found.revision);
        let topology = found
            .document
            .map(|document| Topology::decode(&document))
            .transpose()
            .map_err(|error| StoreError::Document {
                place: self.place(),
                error: Box::new(error),
            })?;
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
        let document = topology.encode();
        let key = encoded(&self.key);
        let revision = self.revision.unwrap_or(0);
        let transaction = json!({
            "compare": [{ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string() }],
            "success": [{ "request_put": { "key": key, "value": encoded(&document) } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = self.gateway.call("kv/txn", &transaction).await;
        // Whatever comes next is decided by what etcd has then.
        self.revision = None;
        self.stored = None;
        let answer = answer.map_err(|error| self.failed(error))?;
        let now = Some((topology.cluster_id.clone(), topology.epoch));
        if answer.get("succeeded").and_then(Value::as_bool) == Some(true) {
            self.revision = answer
                .get("header")
                .and_then(|header| number(header.get("revision")));
            self.stored = now;
            return Ok(());
        }
        let responses = answer.get("responses").and_then(Value::as_array);
        let range = responses.and_then(|responses| responses.first()?.get("response_range"));
        let found = range.map(found).unwrap_or_default();
        if found.document.as_deref() == Some(document.as_bytes()) {
            // An earlier attempt of this very call was done, and its answer lost.
            self.revision = Some(found.revision);
            self.stored = now;
            return Ok(());
        }
        Err(StoreError::Changed { place: self.place() })
    }
}

impl TopologyStore for EtcdStore {
    fn load(&mut self) -> Answer<'_, Option<Topology>> {
        Box::pin(self.read())
    }

    fn save<'a>(&'a mut self, topology: &'a Topology) -> Answer<'a, ()> {
        Box::pin(self.write(topology))
    }

    fn place(&self) -> String {
        format!("etcd://{}{}", self.gateway.endpoints(), self.key)
    }
}

/// The first key of an answer to a range. etcd leaves out what is empty.
fn found(answer: &Value) -> Found {
    let rows = answer.get("kvs").and_then(Value::as_array);
    let Some(row) = rows.and_then(|rows| rows.first()) else {
        return Found::default();
    };
    Found {
        revision: number(row.get("mod_revision")).unwrap_or(0),
        document: Some(decoded(row.get("value")).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_keys_is_an_empty_store() {
        let none = found(&json!({ "header": { "revision": "7" } }));
        assert_eq!((none.revision, none.document), (0, None));
        let some = found(
            &json!({ "kvs": [{ "key": "eA==", "value": "eHk=", "mod_revision": "12" }], "count": "1" }),
        );
        assert_eq!((some.revision, some.document), (12, Some(b"xy".to_vec())));
        let empty = found(&json!({ "kvs": [{ "key": "eA==", "mod_revision": "3" }] }));
        assert_eq!((empty.revision, empty.document), (3, Some(Vec::new())));
    }
}
