//! What becomes of batches that have been taken.
//!
//! | the transaction | then |
//! |---|---|
//! | committed | `ACK` of all of them, those too that had been applied before |
//! | refused, or its connection lost before COMMIT | nothing was written: `LEASE` puts them back for a while |
//! | its connection lost in COMMIT | nothing at all: they come back, and the marker knows |
//!
//! Longer than half of a lease, and it is prolonged, so that a batch with many members that Postgres refuses is not handed to
//! somebody else meanwhile (who would wait for the marker row, and then find nothing to do).

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::apply::{Applied, Job};
use super::batch::Batch;
use super::chain::Link;
use super::database::{Database, Failure};
use super::fault::{Fault, doubled};
use super::settings::{Counter, OnRollback};
use super::source::{NoAnswer, Source};
use super::worker::{Trouble, Worker};

/// Attempts to acknowledge. If all fail, the batches come back and are acknowledged then.
const ACK_TRIES: u32 = 6;

// === impl Worker ===

impl Worker {
    /// Applies batches and acknowledges them.
    pub(super) async fn flush(&mut self, counter: &Counter, batches: Vec<Batch>) -> Result<(), Trouble> {
        let (result, batches) = match self.apply(counter, batches, false).await {
            // One bad batch must not hold up those that came with it.
            (Err(failure), batches) if batches.len() > 1 && is_about_data(&failure) => {
                return self.flush_each(counter, batches).await;
            }
            other => other,
        };
        let applied = match result {
            Ok(applied) => applied,
            Err(failure) => return Err(self.put_back(counter, &batches, &failure).await),
        };
        self.note(counter, &batches, &applied, false);
        let (past, done): (Vec<_>, Vec<_>) = batches
            .into_iter()
            .zip(&applied.links)
            .partition(|(_, link)| **link == Link::Past);
        let done: Vec<String> = done.into_iter().map(|(batch, _)| batch.id).collect();
        self.acknowledge(counter, &done).await?;
        for (batch, _) in past {
            self.look_at_past(counter, batch).await?;
        }
        self.figures.success(&counter.name);
        Ok(())
    }

    async fn flush_each(&mut self, counter: &Counter, batches: Vec<Batch>) -> Result<(), Trouble> {
        let mut trouble = Ok(());
        for batch in batches {
            match Box::pin(self.flush(counter, vec![batch])).await {
                Err(Trouble::Side) => return Err(Trouble::Side),
                Err(other) => trouble = Err(other),
                Ok(()) => {}
            }
        }
        trouble
    }

    /// A batch that is older than the marker of its shard: somebody has gone on in the meantime, or Redis has gone back and its
    /// clock with it. Only in the second case it is still outstanding.
    async fn look_at_past(&mut self, counter: &Counter, batch: Batch) -> Result<(), Trouble> {
        let lease = self.settings.lease;
        let outstanding = self.source.lease(&counter.name, lease, &[&batch.id]).await;
        if self.heard(outstanding)? == 0 {
            self.figures.outcome(&counter.name, "superseded", 1);
            return Ok(());
        }
        tracing::error!(
            event = "redis_went_back",
            counter = counter.name,
            shard = batch.shard,
            seq = batch.seq,
            "an outstanding batch is older than what is recorded: Redis lost history and its clock went back"
        );
        let batches = vec![batch];
        match self.apply(counter, batches, true).await {
            (Ok(applied), batches) => {
                self.note(counter, &batches, &applied, true);
                let done: Vec<String> = batches.into_iter().map(|batch| batch.id).collect();
                self.acknowledge(counter, &done).await
            }
            (Err(failure), batches) => Err(self.put_back(counter, &batches, &failure).await),
        }
    }

    /// One transaction, during which the lease is kept.
    async fn apply(
        &mut self,
        counter: &Counter,
        batches: Vec<Batch>,
        past: bool,
    ) -> (Result<Applied, Failure>, Vec<Batch>) {
        let Some(database) = &self.database else {
            return (Err(Failure::Lost("not connected".into())), batches);
        };
        let job = Job {
            source: &self.settings.source,
            counter,
            lease: self.settings.lease,
            past,
        };
        let started = Instant::now();
        let result = while_leased(database, job, &batches, &mut self.source).await;
        self.figures.transaction.observe(started.elapsed().as_secs_f64());
        (result, batches)
    }

    /// Puts batches back after a failure, as far as that may be done.
    async fn put_back(&mut self, counter: &Counter, batches: &[Batch], failure: &Failure) -> Trouble {
        self.count_failure(failure);
        self.figures.outcome(&counter.name, "failed", batches.len());
        let attempt = batches.iter().map(|batch| batch.attempt).max().unwrap_or(1);
        let fault = match failure {
            Failure::Refused { fault, .. } => *fault,
            Failure::Lost(_) => Fault::Unavailable,
            Failure::Unknown(_) => {
                tracing::warn!(
                    event = "commit_unknown",
                    counter = counter.name,
                    batches = batches.len(),
                    error = %failure,
                    "left alone until they are handed out again; the marker knows by then"
                );
                self.lose_database();
                return Trouble::Side;
            }
        };
        let rest = fault.back_off(attempt, fastrand::f64());
        match fault {
            Fault::Contention | Fault::Unavailable => {
                tracing::warn!(event = "flush_put_back", counter = counter.name, batches = batches.len(), attempt, error = %failure);
            }
            Fault::Data | Fault::Statement => {
                tracing::error!(event = "flush_refused", counter = counter.name, batches = batches.len(), attempt, error = %failure);
            }
        }
        let lost = matches!(failure, Failure::Lost(_));
        if lost {
            self.lose_database();
        }
        let ids: Vec<&str> = batches.iter().map(|batch| batch.id.as_str()).collect();
        let put_back = self.source.lease(&counter.name, rest, &ids).await;
        // Without it they come back after their lease.
        if self.heard(put_back).is_err() || lost {
            return Trouble::Side;
        }
        // A statement that is wrong is wrong for the next batch too; one that waited for a lock is not.
        Trouble::Counter(match fault {
            Fault::Statement => rest,
            Fault::Data | Fault::Contention | Fault::Unavailable => Duration::ZERO,
        })
    }

    /// Ends batches for good. It may be said as often as one likes.
    async fn acknowledge(&mut self, counter: &Counter, ids: &[String]) -> Result<(), Trouble> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut tries = 0;
        loop {
            let answer = self.source.ack(&counter.name, &ids).await;
            tries += 1;
            let last = matches!(answer, Err(NoAnswer::Refused(_))) || tries == ACK_TRIES;
            match self.heard(answer) {
                Ok(_) => return Ok(()),
                Err(trouble) if last => {
                    tracing::warn!(
                        event = "ack_failed",
                        counter = counter.name,
                        batches = ids.len(),
                        "they are applied, and are acknowledged when they come again"
                    );
                    return Err(trouble);
                }
                Err(_) => {
                    let pause = doubled(
                        Duration::from_millis(50),
                        Duration::from_secs(1),
                        tries,
                        fastrand::f64(),
                    );
                    sleep(pause).await;
                }
            }
        }
    }

    /// Counts and tells what a transaction did.
    fn note(&self, counter: &Counter, batches: &[Batch], applied: &Applied, past: bool) {
        let name = counter.name.as_str();
        for (at, link) in applied.links.iter().enumerate() {
            match link {
                // What becomes of it is not known yet.
                Link::Past if !past => continue,
                Link::Applied => self.figures.outcome(name, "duplicate", 1),
                _ if applied.parked[at] => self.figures.outcome(name, "parked", 1),
                _ => self.figures.outcome(name, "applied", 1),
            }
            let Some(kind) = link.word() else { continue };
            self.figures.add("preshard_flush_chain_total", &[name, kind], 1);
            let batch = &batches[at];
            tracing::warn!(
                event = "flush_chain",
                counter = name,
                shard = batch.shard,
                seq = batch.seq,
                prev = batch.prev,
                kind,
                parked = applied.parked[at],
                on_rollback = match counter.on_rollback {
                    OnRollback::Apply => "apply",
                    OnRollback::Park => "park",
                },
            );
        }
        let count = |family: &str, count: u64| self.figures.add(family, &[name], count);
        count("preshard_flush_members_total", applied.members as u64);
        count("preshard_flush_rows_total", applied.changed);
        count("preshard_flush_dead_letters_total", applied.dead as u64);
        if applied.dead > 0 {
            tracing::warn!(
                event = "dead_letters",
                counter = name,
                entries = applied.dead,
                "see preshard_dead"
            );
        }
    }
}

/// Applies batches, and prolongs their lease each time that half of it has passed.
async fn while_leased(
    database: &Database,
    job: Job<'_>,
    batches: &[Batch],
    source: &mut Source,
) -> Result<Applied, Failure> {
    let mut apply = Box::pin(database.apply(job, batches));
    let mut ticks = interval(job.lease / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        tokio::select! {
            biased;
            applied = &mut apply => return applied,
            _ = ticks.tick() => {}
        }
        let ids: Vec<&str> = batches.iter().map(|batch| batch.id.as_str()).collect();
        // Whether it works makes no difference to what is right, only to who waits for whom.
        tokio::select! {
            biased;
            applied = &mut apply => return applied,
            _ = source.lease(&job.counter.name, job.lease, &ids) => {}
        }
    }
}

const fn is_about_data(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused {
            fault: Fault::Data,
            ..
        }
    )
}
