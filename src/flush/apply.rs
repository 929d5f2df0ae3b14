//! One transaction: batches are applied and recorded together, or not at all.
//!
//! ```text
//!  BEGIN, limits
//!  SELECT … FOR UPDATE · INSERT … ON CONFLICT … RETURNING · SAVEPOINT     in one go: which batches are new here?
//!  WITH delta … the user's statement        refused for its data? halves, and halves of these, down to the members at fault
//!  INSERT INTO preshard_dead                what was refused
//!  COMMIT
//! ```
//!
//! The marker rows are locked in the order of their shards and the members sorted, so that flushers wait for each other in a line
//! and never in a ring. Who waits for a marker row finds, once it is there, that the batch has been applied.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use super::batch::Batch;
use super::chain::Link;
use super::database::{Database, Failure, commit_failure};
use super::fault::Fault;
use super::rows::{Dead, Row, rows};
use super::settings::{Counter, OnBad, OnRollback};

const MARKERS: &str = "SELECT shard, seq FROM preshard_flush \
    WHERE source = $1 AND counter = $2 AND shard = ANY($3) ORDER BY shard FOR UPDATE";
/// Records batches, and answers with the shards whose batch is newer than what is recorded.
const RECORD: &str = "INSERT INTO preshard_flush AS m (source, counter, shard, seq) \
    SELECT $1, $2, u.shard, u.seq FROM unnest($3::int[], $4::bigint[]) AS u(shard, seq) \
    ON CONFLICT (source, counter, shard) DO UPDATE SET seq = EXCLUDED.seq, at = now() \
    WHERE m.seq < EXCLUDED.seq RETURNING shard";
/// The same for batches that are older by their number, and outstanding all the same.
const RECORD_PAST: &str = "INSERT INTO preshard_flush AS m (source, counter, shard, seq) \
    SELECT $1, $2, u.shard, u.seq FROM unnest($3::int[], $4::bigint[]) AS u(shard, seq) \
    ON CONFLICT (source, counter, shard) DO UPDATE SET seq = EXCLUDED.seq, at = now() \
    WHERE m.seq <> EXCLUDED.seq RETURNING shard";
const BURY: &str = "INSERT INTO preshard_dead (source, counter, member, delta, batch, error) \
    SELECT $1, $2, u.member, u.delta, u.batch, u.error \
    FROM unnest($3::text[], $4::bigint[], $5::text[], $6::text[]) AS u(member, delta, batch, error)";
/// Back to before the refused statement.
const UNDO: &str = "ROLLBACK TO SAVEPOINT preshard; RELEASE SAVEPOINT preshard";

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// For whom batches are applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) source: &'a str,
    pub(super) counter: &'a Counter,
    pub(super) lease: Duration,
    /// Apply batches that are older than the marker; the caller knows that they are outstanding.
    pub(super) past: bool,
}

/// What a transaction that was committed did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// How each batch relates to what was recorded before.
    pub(super) links: Vec<Link>,
    /// Which of them were set aside instead of applied.
    pub(super) parked: Vec<bool>,
    /// Rows of `delta` that the statement took.
    pub(super) members: usize,
    /// Rows that the statement changed.
    pub(super) changed: u64,
    /// Rows of `preshard_dead`.
    pub(super) dead: usize,
}

// === impl Database ===

impl Database {
    /// Applies batches, at most one of a shard. An error leaves nothing written, unless it is [`Failure::Unknown`].
    pub(super) async fn apply(&self, job: Job<'_>, batches: &[Batch]) -> Result<Applied, Failure> {
        match self.within(job, batches).await {
            Ok((applied, true)) => {
                let committed = self.limited(self.client.batch_execute("COMMIT")).await;
                committed.map_err(commit_failure)?;
                Ok(applied)
            }
            Ok((applied, false)) => {
                self.roll_back().await?;
                Ok(applied)
            }
            Err(failure @ Failure::Refused { .. }) => {
                self.roll_back().await?;
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn roll_back(&self) -> Result<(), Failure> {
        self.limited(self.client.batch_execute("ROLLBACK")).await
    }

    /// Everything from BEGIN to before COMMIT; whether there is something to commit.
    async fn within(&self, job: Job<'_>, batches: &[Batch]) -> Result<(Applied, bool), Failure> {
        self.limited(self.client.batch_execute(&begin(job.lease))).await?;
        let links = self.record(job, batches).await?;
        let is_new = |link: Link| !matches!(link, Link::Applied) && (job.past || link != Link::Past);
        let park = |link: Link| job.counter.on_rollback == OnRollback::Park && link.may_count_twice();
        let parked: Vec<bool> = links.iter().map(|link| is_new(*link) && park(*link)).collect();
        let apply = batches
            .iter()
            .enumerate()
            .filter(|(at, _)| is_new(links[*at]) && !parked[*at]);
        let (rows, mut dead) = rows(job.counter.member, apply);
        if let Some(first) = dead.first().filter(|_| job.counter.on_bad == OnBad::Fail) {
            return Err(bad(&first.error));
        }
        let (members, changed) = self.write(job.counter, &rows, &mut dead).await?;
        for (at, batch) in batches.iter().enumerate().filter(|(at, _)| parked[*at]) {
            dead.extend(park_entries(at, batch, links[at]));
        }
        self.bury(job, batches, &dead).await?;
        let applied = Applied {
            parked,
            members,
            changed,
            dead: dead.len(),
            links: links.clone(),
        };
        Ok((applied, links.into_iter().any(is_new)))
    }

    /// Locks and writes the markers: how each batch relates to what was there.
    async fn record(&self, job: Job<'_>, batches: &[Batch]) -> Result<Vec<Link>, Failure> {
        let shards: Vec<i32> = batches.iter().map(|batch| batch.shard).collect();
        let seqs: Vec<i64> = batches.iter().map(|batch| batch.seq).collect();
        let (source, counter) = (job.source, job.counter.name.as_str());
        let record = if job.past { RECORD_PAST } else { RECORD };
        let client = &self.client;
        let parameters: [Parameter<'_>; 4] = [
            (&source, Type::TEXT),
            (&counter, Type::TEXT),
            (&shards, Type::INT4_ARRAY),
            (&seqs, Type::INT8_ARRAY),
        ];
        // Sent in this order in one go; the transaction is open already, so one that fails fails those behind it.
        let asked = async {
            let (markers, recorded, saved) = tokio::join!(
                biased;
                client.query_typed(MARKERS, &parameters[..3]),
                client.query_typed(record, &parameters),
                client.batch_execute("SAVEPOINT preshard"),
            );
            let (markers, recorded) = (markers?, recorded?);
            saved?;
            Ok((markers, recorded))
        };
        let (markers, recorded) = self.limited(asked).await?;
        let lost = |error: tokio_postgres::Error| Failure::Lost(format!("preshard_flush: {error}"));
        let mut before = BTreeMap::new();
        for row in &markers {
            before.insert(
                row.try_get::<_, i32>(0).map_err(lost)?,
                row.try_get::<_, i64>(1).map_err(lost)?,
            );
        }
        let mut new = Vec::new();
        for row in &recorded {
            new.push(row.try_get::<_, i32>(0).map_err(lost)?);
        }
        let link = |batch: &Batch| {
            let link = Link::of(before.get(&batch.shard).copied(), batch.seq, batch.prev);
            // A marker that another flusher made between the two statements: it has applied this very batch.
            let overtaken = link == Link::First && !new.contains(&batch.shard);
            if overtaken { Link::Applied } else { link }
        };
        Ok(batches.iter().map(link).collect())
    }

    /// Runs the user's statement, in parts if some members are refused: members taken, rows changed.
    async fn write(
        &self,
        counter: &Counter,
        rows: &[Row],
        dead: &mut Vec<Dead>,
    ) -> Result<(usize, u64), Failure> {
        let (mut members, mut changed) = (0, 0);
        let mut due: Vec<Range<usize>> = Vec::new();
        if !rows.is_empty() {
            due.push(0..rows.len());
        }
        let mut is_saved = true;
        while let Some(range) = due.pop() {
            if !is_saved {
                self.limited(self.client.batch_execute("SAVEPOINT preshard"))
                    .await?;
            }
            is_saved = false;
            let part = &rows[range.clone()];
            match self.execute(counter, part).await {
                Ok(count) => {
                    members += part.len();
                    changed += count;
                    if !due.is_empty() {
                        self.limited(self.client.batch_execute("RELEASE SAVEPOINT preshard"))
                            .await?;
                    }
                }
                Err(
                    failure @ Failure::Refused {
                        fault: Fault::Data, ..
                    },
                ) => {
                    if counter.on_bad == OnBad::Fail {
                        return Err(failure);
                    }
                    self.limited(self.client.batch_execute(UNDO)).await?;
                    match part {
                        [row] => dead.extend(bury_row(row, &failure)),
                        _ => {
                            let middle = range.start + part.len() / 2;
                            due.push(middle..range.end);
                            due.push(range.start..middle);
                        }
                    }
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok((members, changed))
    }

    async fn execute(&self, counter: &Counter, rows: &[Row]) -> Result<u64, Failure> {
        let members: Vec<&str> = rows.iter().map(|row| row.member.as_str()).collect();
        let deltas: Vec<i64> = rows.iter().map(|row| row.delta).collect();
        let parameters: [Parameter<'_>; 2] = [(&members, Type::TEXT_ARRAY), (&deltas, Type::INT8_ARRAY)];
        self.limited(self.client.execute_typed(counter.sql.as_str(), &parameters))
            .await
    }

    async fn bury(&self, job: Job<'_>, batches: &[Batch], dead: &[Dead]) -> Result<(), Failure> {
        if dead.is_empty() {
            return Ok(());
        }
        let (source, counter) = (job.source, job.counter.name.as_str());
        let members: Vec<&str> = dead.iter().map(|dead| dead.entry.member.as_str()).collect();
        let deltas: Vec<i64> = dead.iter().map(|dead| dead.entry.delta).collect();
        let ids: Vec<&str> = dead
            .iter()
            .map(|dead| batches[dead.entry.batch].id.as_str())
            .collect();
        let errors: Vec<&str> = dead.iter().map(|dead| dead.error.as_str()).collect();
        let parameters: [Parameter<'_>; 6] = [
            (&source, Type::TEXT),
            (&counter, Type::TEXT),
            (&members, Type::TEXT_ARRAY),
            (&deltas, Type::INT8_ARRAY),
            (&ids, Type::TEXT_ARRAY),
            (&errors, Type::TEXT_ARRAY),
        ];
        let buried = self.client.execute_typed(BURY, &parameters);
        self.limited(buried)
            .await
            .map(|_| ())
            .map_err(|failure| match failure {
                // Nothing that is wrong here is the members' fault, or this would go round in circles.
                Failure::Refused { code, what, full, .. } => Failure::Refused {
                    fault: Fault::Statement,
                    what: format!("preshard_dead: {what}"),
                    code,
                    full,
                },
                other => other,
            })
    }
}

/// Opens a transaction whose waits all end before the batch is anybody else's.
fn begin(lease: Duration) -> String {
    let lease = lease.as_millis();
    let limit = statement_limit(lease);
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = {limit}; \
         SET LOCAL lock_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {lease}; \
         SET CONSTRAINTS ALL IMMEDIATE; \
         SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// Milliseconds for one statement: less than half of the lease.
pub(super) const fn statement_limit(lease_ms: u128) -> u128 {
    let limit = lease_ms * 2 / 5;
    if limit == 0 { 1 } else { limit }
}

fn bad(error: &str) -> Failure {
    Failure::Refused {
        fault: Fault::Data,
        code: "22P02".into(),
        what: "a member is refused, and on_bad is \"fail\"".into(),
        full: error.to_owned(),
    }
}

fn bury_row(row: &Row, failure: &Failure) -> Vec<Dead> {
    let error = match failure {
        Failure::Refused { full, .. } => full.clone(),
        other => other.to_string(),
    };
    let entries = row.entries.iter().cloned();
    entries
        .map(|entry| Dead {
            entry,
            error: error.clone(),
        })
        .collect()
}

fn park_entries(number: usize, batch: &Batch, link: Link) -> Vec<Dead> {
    let error = format!(
        "preshard: parked ({}), it may have been counted already",
        link.word().unwrap_or_default()
    );
    super::rows::parked(number, batch, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_before_half_of_the_lease() {
        assert_eq!(statement_limit(30_000), 12_000);
        assert_eq!(statement_limit(1), 1);
        assert!(begin(Duration::from_secs(10)).contains("lock_timeout = 4000;"));
    }
}
