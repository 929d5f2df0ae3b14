//! What is asked of etcd, in its own words: ranges, transactions, leases. All of it bears to be asked twice.
//!
//! ```text
//!  put over a revision    compare mod_revision (and the leader's create_revision) ─▶ put │ else read both: why not?
//!  asked twice            the first attempt was done ─▶ the second finds its own document, which is well
//! ```

use std::time::Duration;

use serde_json::{Value, json};

use crate::store::fleet::{Ballot, Lease, ProxyRecord, Revision, Term};
use crate::store::gateway::{EtcdAccess, Gateway, GatewayError, decoded, encoded, number};
use crate::store::{Record, StoreError, fleet};

/// What is worth nothing when it comes late: leases and looks.
pub(super) const PROMPT: Duration = Duration::from_secs(1);
/// Earlier versions of the topology that are looked at.
const HISTORY_MAX: usize = 32;

pub(super) const TOPOLOGY: &str = "topology";
pub(super) const SECRET: &str = "secret";
pub(super) const LEADER: &str = "leader";
pub(super) const PROXIES: &str = "proxies/";
pub(super) const RECORDS: &str = "tasks/";

/// The keys of one cluster in etcd.
#[derive(Debug)]
pub(super) struct Etcd {
    pub(super) gateway: Gateway,
    /// Begins and ends with a slash.
    prefix: String,
}

/// A key with its value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
    pub(super) created: i64,
    pub(super) modified: i64,
    lease: i64,
}

/// What a write has to find.
struct Condition<'a> {
    name: &'a str,
    over: Revision,
    term: Option<Term>,
}

// === impl Etcd ===

impl Etcd {
    pub(super) fn new(access: EtcdAccess, prefix: &str) -> Self {
        Self {
            gateway: Gateway::new(access),
            prefix: format!("/{}/", prefix.trim_matches('/')),
        }
    }

    pub(super) fn place(&self) -> String {
        format!("etcd://{}{}{TOPOLOGY}", self.gateway.endpoints(), self.prefix)
    }

    pub(super) fn key(&self, name: &str) -> String {
        encoded(format!("{}{name}", self.prefix))
    }

    /// The part of a key behind the prefix.
    pub(super) fn name<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }

    /// All keys whose names begin so.
    pub(super) fn all(&self, names: &str) -> Value {
        // The end is the first key behind them: '0' follows '/'.
        let first = format!("{}{names}", self.prefix);
        let end = format!("{}0", first.trim_end_matches('/'));
        json!({ "key": encoded(&first), "range_end": encoded(end) })
    }

    pub(super) fn failed(&self, error: GatewayError) -> StoreError {
        let place = self.place();
        match error {
            GatewayError::Unreachable(why) => StoreError::Unreachable { place, why },
            GatewayError::Refused(why) if why.contains("requested lease not found") => {
                StoreError::LeaseEnded { place }
            }
            GatewayError::Refused(why) => StoreError::Refused { place, why },
        }
    }

    pub(super) async fn call(&self, path: &str, body: &Value) -> Result<Value, StoreError> {
        let answer = self.gateway.call(path, body).await;
        answer.map_err(|error| self.failed(error))
    }

    pub(super) async fn call_promptly(&self, path: &str, body: &Value) -> Result<Value, StoreError> {
        let answer = self.gateway.call_within(path, body, PROMPT).await;
        answer.map_err(|error| self.failed(error))
    }

    /// What stands under one key, at this moment.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Row>, StoreError> {
        let answer = self.call("kv/range", &json!({ "key": self.key(name) })).await?;
        Ok(rows(&answer).pop())
    }

    pub(super) async fn put_over(
        &self,
        name: &str,
        value: &str,
        over: Revision,
        term: Option<Term>,
    ) -> Result<Revision, StoreError> {
        let put = json!({ "request_put": { "key": self.key(name), "value": encoded(value) } });
        let condition = Condition { name, over, term };
        let answer = self.transact(&condition, put).await?;
        if is_done(&answer) {
            return Ok(revision_of(&answer));
        }
        match found(&answer, 0) {
            // An earlier attempt of this very call was done, and its answer lost.
            Some(row) if row.value == value.as_bytes() => Ok(Revision(row.modified)),
            Some(_) | None => Err(self.unmet(&condition, &answer)),
        }
    }

    pub(super) async fn delete_over(
        &self,
        name: &str,
        over: Revision,
        term: Option<Term>,
    ) -> Result<(), StoreError> {
        let delete = json!({ "request_delete_range": { "key": self.key(name) } });
        let condition = Condition { name, over, term };
        let answer = self.transact(&condition, delete).await?;
        if is_done(&answer) || found(&answer, 0).is_none() {
            return Ok(());
        }
        Err(self.unmet(&condition, &answer))
    }

    async fn transact(&self, condition: &Condition<'_>, done: Value) -> Result<Value, StoreError> {
        let (key, leader) = (self.key(condition.name), self.key(LEADER));
        let over = condition.over.0.to_string();
        let mut compare =
            vec![json!({ "key": key, "target": "MOD", "result": "EQUAL", "mod_revision": over })];
        if let Some(Term(term)) = condition.term {
            let term = term.to_string();
            compare.push(
                json!({ "key": leader, "target": "CREATE", "result": "EQUAL", "create_revision": term }),
            );
        }
        let transaction = json!({
            "compare": compare,
            "success": [done],
            "failure": [{ "request_range": { "key": key } }, { "request_range": { "key": leader } }],
        });
        self.call("kv/txn", &transaction).await
    }

    /// Why a transaction was not done.
    fn unmet(&self, condition: &Condition<'_>, answer: &Value) -> StoreError {
        let place = self.place();
        let leads = found(answer, 1).map(|row| Term(row.created));
        match condition.term {
            Some(term) if leads != Some(term) => StoreError::Deposed { place },
            Some(_) | None => StoreError::Changed { place },
        }
    }

    /// Whether a value stood under a key at some time after `since`.
    pub(super) async fn has_held(
        &self,
        name: &str,
        value: &str,
        since: Revision,
    ) -> Result<Option<bool>, StoreError> {
        let mut question = json!({ "key": self.key(name) });
        for _ in 0..HISTORY_MAX {
            let answer = match self.call("kv/range", &question).await {
                Err(StoreError::Refused { why, .. }) if why.contains("compacted") => return Ok(None),
                answer => answer?,
            };
            match rows(&answer).pop() {
                Some(row) if row.modified > since.0 && row.value == value.as_bytes() => {
                    return Ok(Some(true));
                }
                Some(row) if row.modified > since.0 => {
                    question["revision"] = (row.modified - 1).to_string().into();
                }
                Some(_) | None => return Ok(Some(false)),
            }
        }
        Ok(None)
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let body = json!({ "TTL": ttl.as_secs().to_string() });
        let answer = self.call_promptly("lease/grant", &body).await?;
        let id = number(answer.get("ID")).ok_or_else(|| self.strange("a lease without a number"))?;
        Ok(Lease { id, ttl })
    }

    pub(super) async fn keep_alive(&self, lease: Lease) -> Result<bool, StoreError> {
        let body = json!({ "ID": lease.id.to_string() });
        let answer = self.call_promptly("lease/keepalive", &body).await?;
        // Errors of a stream come inside a good answer; a lease that has ended has no time left.
        let result = answer.get("result");
        let result = result.ok_or_else(|| self.strange(&format!("no sign of life was taken: {answer}")))?;
        Ok(number(result.get("TTL")).is_some_and(|left| left > 0))
    }

    pub(super) async fn revoke(&self, lease: Lease) -> Result<(), StoreError> {
        let body = json!({ "ID": lease.id.to_string() });
        match self.call_promptly("lease/revoke", &body).await {
            Ok(_) | Err(StoreError::LeaseEnded { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn register(&self, lease: Lease, record: &ProxyRecord) -> Result<Revision, StoreError> {
        let name = format!("{PROXIES}{}", record.id);
        let body = json!({
            "key": self.key(&name), "value": encoded(record.encode()), "lease": lease.id.to_string()
        });
        let answer = self.call_promptly("kv/put", &body).await?;
        Ok(revision_of(&answer))
    }

    pub(super) async fn campaign(&self, lease: Lease, id: &str) -> Result<Ballot, StoreError> {
        let key = self.key(LEADER);
        let number = lease.id.to_string();
        let transaction = json!({
            "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": { "key": key, "value": encoded(id), "lease": number } }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer = self.call_promptly("kv/txn", &transaction).await?;
        if is_done(&answer) {
            let written = revision_of(&answer);
            return Ok(Ballot::Won(Term(written.0), written));
        }
        Ok(match found(&answer, 0) {
            // An earlier attempt of this very call.
            Some(row) if row.lease == lease.id => Ballot::Won(Term(row.created), Revision(row.modified)),
            Some(_) | None => Ballot::Lost,
        })
    }

    pub(super) async fn records(&self) -> Result<Vec<Record>, StoreError> {
        let answer = self.call("kv/range", &self.all(RECORDS)).await?;
        let rows = rows(&answer).into_iter();
        Ok(rows.filter_map(|row| self.record(row)).collect())
    }

    /// A record out of its row; nothing if the row is none.
    pub(super) fn record(&self, row: Row) -> Option<Record> {
        let id = self.name(&row.key)?.strip_prefix(RECORDS)?;
        fleet::is_record_id(id).then_some(())?;
        Some(Record {
            id: id.to_owned(),
            document: String::from_utf8(row.value).ok()?,
            revision: Revision(row.modified),
        })
    }

    pub(super) async fn check_room_for_a_record(&self) -> Result<(), StoreError> {
        let mut question = self.all(RECORDS);
        question["count_only"] = true.into();
        let answer = self.call("kv/range", &question).await?;
        let count = number(answer.get("count")).unwrap_or(0);
        fleet::check_count(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// An answer that etcd does not give.
    pub(super) fn strange(&self, why: &str) -> StoreError {
        StoreError::Unreachable {
            place: self.place(),
            why: why.to_owned(),
        }
    }
}

/// The keys of an answer to a range. etcd leaves out what is empty.
pub(super) fn rows(answer: &Value) -> Vec<Row> {
    let rows = answer.get("kvs").and_then(Value::as_array);
    rows.into_iter().flatten().map(row).collect()
}

pub(super) fn row(value: &Value) -> Row {
    let key = decoded(value.get("key")).unwrap_or_default();
    Row {
        key: String::from_utf8_lossy(&key).into_owned(),
        value: decoded(value.get("value")).unwrap_or_default(),
        created: number(value.get("create_revision")).unwrap_or(0),
        modified: number(value.get("mod_revision")).unwrap_or(0),
        lease: number(value.get("lease")).unwrap_or(0),
    }
}

/// The revision in an answer's header.
pub(super) fn revision_of(answer: &Value) -> Revision {
    let header = answer.get("header");
    Revision(number(header.and_then(|header| header.get("revision"))).unwrap_or(0))
}

fn is_done(transaction: &Value) -> bool {
    transaction.get("succeeded").and_then(Value::as_bool) == Some(true)
}

/// The first key of one of a transaction's ranges.
fn found(transaction: &Value, at: usize) -> Option<Row> {
    let responses = transaction.get("responses")?.as_array()?;
    rows(responses.get(at)?.get("response_range")?).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_keys_is_an_empty_store() {
        assert_eq!(rows(&json!({ "header": { "revision": "7" } })), []);
        let some = rows(&json!({
            "kvs": [{ "key": "eA==", "value": "eHk=", "create_revision": "3", "mod_revision": "12" }], "count": "1"
        }));
        let expected = Row {
            key: "x".to_owned(),
            value: b"xy".to_vec(),
            created: 3,
            modified: 12,
            lease: 0,
        };
        assert_eq!(some, [expected]);
        let empty = rows(&json!({ "kvs": [{ "key": "eA==", "mod_revision": "3" }] }));
        assert_eq!(empty[0].value, b"");
    }
}
