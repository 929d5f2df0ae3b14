//! What comes behind the commit of a move: the time in which it can be taken back.
//!
//! ```text
//!  moved ──┬─ the source follows the target (`reverse`); lost? ─▶ gone on with, or it is told why there is no way back
//!          ├─ ROLLBACK ─▶ the same cutover, the other way ─▶ rolled-back, the target's copy is cleared
//!          └─ FINALIZE · retention is over · another move takes the shards ─▶ finalized, the source's copy is cleared
//! ```
//!
//! The leader keeps it beside whatever else it drives. Before it touches something that a move may touch, it asks for the nodes
//! ([`Claims`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

#[cfg(not(test))]
use super::Copy;
use super::claims::Claims;
use super::cutover::{Cutover, Failure};
use super::drive::{BACKOFF, CUTOVERS_MAX, Driven};
use super::ledger::{Ledger, unix_now};
use super::reverse::{Back, Broken};
use super::running::Running;
#[cfg(test)]
use super::sim::Copy;
use super::task::{Move, State, Wish, way_back};
use super::verify::Comparison;
use super::{Journal, Phase};
use crate::ids::ShardId;
use crate::store::Record;
use crate::topology::Address;
use crate::topology::codec::shard_list;
use crate::worker::shared::Shared;

/// Between two looks when nothing is told.
const PACE: Duration = Duration::from_millis(500);
/// Between two notes of how far the source is behind.
const LAG_PACE: Duration = Duration::from_secs(5);
/// Between two attempts at something that has failed: doubled up to the longest.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long a copy that nobody needs may take to go, before its task is over all the same.
const CLEAR_MAX: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Stay,
    RollBack,
    /// Clear what is left on the source: why nobody needs it.
    Finalize(&'static str),
    /// End the way back at once, since another task takes the shards.
    GiveWay(String),
    /// What is wished is not done: why.
    Refuse(String),
}

/// Who takes shards that a task has moved.
#[derive(Clone, Copy, Debug)]
enum Taker<'a> {
    Nobody,
    /// Another task moves some of them.
    Task(&'a str),
    /// It has: some of them live elsewhere.
    Past,
}

/// Decides. `follows`: the source follows the target.
fn next(task: &Move, follows: bool, taker: Taker<'_>, now: u64, retention: Option<Duration>) -> Next {
    let kept_until = retention.map(|retention| task.finished.saturating_add(retention.as_secs()));
    match (task.wish, taker) {
        (_, Taker::Task(taker)) if task.is_reversible() => Next::GiveWay(taker.to_owned()),
        (Some(Wish::Finalize), _) => Next::Finalize("finalized"),
        // Even the last moment is one.
        (Some(Wish::Rollback), Taker::Nobody) if task.is_reversible() => match task.why_not_back() {
            Some(why) => Next::Refuse(why),
            None if follows => Next::RollBack,
            None => Next::Stay,
        },
        (_, Taker::Task(_) | Taker::Past) => Next::Finalize("its shards are moved again"),
        (_, Taker::Nobody) if kept_until.is_some_and(|until| now >= until) => {
            Next::Finalize("its time is over")
        }
        (_, Taker::Nobody) => Next::Stay,
    }
}

/// The task that moves some of these shards, if there is one.
pub(super) fn taker_of<'a>(
    id: &str,
    shards: &impl Fn(&ShardId) -> bool,
    records: &'a BTreeMap<String, Arc<Record>>,
    total: u16,
) -> Option<&'a str> {
    records.values().find_map(|record| {
        let other = Move::decode(&record.document).filter(|other| !other.state.is_over())?;
        let theirs = shard_list(&other.shards, total).unwrap_or_default();
        (record.id != id && theirs.iter().any(shards)).then_some(record.id.as_str())
    })
}

/// How long what has moved can be taken back; none: until it is finalized.
fn retention(shared: &Shared) -> Option<Duration> {
    shared.settings.load().migration.retention
}

/// The stream, if the source follows it.
fn following(back: Option<&Back>) -> Option<&Copy> {
    back.map(|back| &back.copy)
        .filter(|copy| copy.progress().phase == Phase::Streaming)
}

struct Window<'a, 'b> {
    driven: &'b Driven<'a>,
    ledger: &'b mut Ledger<'a>,
    claims: &'b Claims,
    back: Option<Back>,
    comparison: Comparison,
    lag_noted: Instant,
    /// Not before, what has failed is tried again; and how long it is waited then.
    retry: (Instant, Duration),
}

/// Keeps the way back of a move until it is over. Runs as long as this proxy leads.
pub(super) async fn keep<'a>(
    driven: &Driven<'a>,
    ledger: &mut Ledger<'a>,
    claims: &Claims,
    back: Option<Back>,
) {
    let now = Instant::now();
    let mut window = Window {
        driven,
        ledger,
        claims,
        back,
        comparison: Comparison::none(),
        lag_noted: now,
        retry: (now, RETRY),
    };
    let done = Box::pin(window.run()).await;
    claims.release(&driven.id);
    if let Err(error) = done {
        tracing::warn!(event = "move_not_recorded", task = driven.id, %error);
    }
}

impl Window<'_, '_> {
    async fn run(&mut self) -> Result<(), Failure> {
        if self.ledger.task.state == State::RollingBack {
            self.settle().await?;
        }
        let mut news = self.driven.fleet.subscribe();
        while self.ledger.task.state == State::Moved && self.driven.fleet.leads() == Some(self.driven.term) {
            let records = news.borrow_and_update().records.clone();
            let told = records
                .get(&self.driven.id)
                .and_then(|record| Move::decode(&record.document));
            if told.is_some_and(|told| self.is_news(&told)) {
                self.ledger.wish().await?;
            }
            self.look_after().await?;
            let taker = self.taker(&records);
            let follows = following(self.back.as_ref()).is_some();
            let retention = retention(self.driven.shared);
            match next(&self.ledger.task, follows, taker, unix_now(), retention) {
                Next::Stay => self.claims.release(&self.driven.id),
                Next::GiveWay(taker) => {
                    let why = format!("its shards are moved again, by task {taker}");
                    self.close(&why).await?;
                    continue;
                }
                Next::RollBack => {
                    if self
                        .claims
                        .want(&self.driven.id, &[&self.driven.source, &self.driven.target])
                    {
                        self.roll_back().await?;
                        self.claims.release(&self.driven.id);
                    }
                }
                Next::Finalize(why) => self.finalize(why).await?,
                Next::Refuse(why) => {
                    self.ledger
                        .write(|task| (task.wish, task.error) = (None, format!("not rolled back: {why}")))
                        .await?;
                }
            }
            if self.ledger.task.state == State::Moved {
                self.compare().await?;
                tokio::select! {
                    _ = news.changed() => {}
                    () = self.claims.until_granted() => {}
                    () = self.comparison.until_due() => {}
                    () = sleep(PACE) => {}
                }
            }
        }
        Ok(())
    }

    /// Who takes the shards, or has taken them: one that is over is not looked at any more, so what has become of it is.
    fn taker<'r>(&self, records: &'r BTreeMap<String, Arc<Record>>) -> Taker<'r> {
        let topology = self.driven.shared.topology.load();
        let is_ours = |shard: &ShardId| self.driven.shards.contains(shard);
        if let Some(task) = taker_of(&self.driven.id, &is_ours, records, topology.total_shards()) {
            return Taker::Task(task);
        }
        let target = topology.node_named(&self.driven.target);
        let mut shards = self.driven.shards.iter();
        if shards.any(|&shard| Some(topology.placement(shard).node) != target) {
            return Taker::Past;
        }
        Taker::Nobody
    }

    /// The leader before has died while the shards were on their way back.
    async fn settle(&mut self) -> Result<(), Failure> {
        let there = self.driven.reversed(0);
        if there.has_moved().await? {
            there.tidy().await;
            return self.rolled_back(Duration::ZERO).await;
        }
        there.until_released(self.ledger).await?;
        let why = "the leader changed while it was rolled back";
        self.ledger
            .write(|task| {
                task.state = State::Moved;
                task.wish = None;
                task.rollback = way_back::no(why);
                why.clone_into(&mut task.error);
            })
            .await?;
        Ok(())
    }

    /// Whether a record says of an operator's wishes what is not known here.
    fn is_news(&self, told: &Move) -> bool {
        let order = |task: &Move| task.verify.as_ref().map(|verify| verify.order);
        told.wish != self.ledger.task.wish || order(told) != order(&self.ledger.task)
    }

    /// Compares both nodes, if that is ordered.
    async fn compare(&mut self) -> Result<(), Failure> {
        let there = self.driven.reversed(0);
        let copy = following(self.back.as_ref());
        self.comparison.look_after(&there, self.ledger, copy).await
    }

    /// The stream, for whoever ends it or has it for himself.
    async fn take_back(&mut self) -> Option<Back> {
        self.comparison.interrupt().await;
        self.back.take()
    }

    // === the stream ===

    async fn look_after(&mut self) -> Result<(), Failure> {
        let Some(back) = &self.back else {
            if self.ledger.task.is_reversible() && Instant::now() >= self.retry.0 {
                let resumed = Box::pin(self.driven.resume_back()).await;
                match resumed {
                    Ok(back) => self.back = Some(back),
                    Err(broken) => self.broken(broken).await?,
                }
            }
            return Ok(());
        };
        if let Some(why) = back.missing.clone() {
            return self.no_way_back(&why).await;
        }
        // What is served here may be a moment old.
        if !self.driven.is_served_by_target() && !self.driven.has_moved().await? {
            return self
                .no_way_back("shards of it live elsewhere, and no task has moved them")
                .await;
        }
        let progress = back.copy.progress();
        let phase = if back.is_current(self.driven) {
            progress.phase
        } else {
            Phase::Stopped
        };
        match phase {
            Phase::Streaming => {
                let lag = progress.lag_bytes();
                let is_new = self.ledger.task.rollback != way_back::YES;
                let is_due =
                    self.lag_noted.elapsed() >= LAG_PACE && lag != self.ledger.task.reverse_lag_bytes;
                if is_new || is_due {
                    (self.lag_noted, self.retry.1) = (Instant::now(), RETRY);
                    self.ledger
                        .write(|task| {
                            way_back::YES.clone_into(&mut task.rollback);
                            task.reverse_lag_bytes = lag;
                        })
                        .await?;
                }
                Ok(())
            }
            Phase::Failed | Phase::Stopped => {
                if let Some(back) = self.take_back().await {
                    self.driven.drop_back(back).await;
                }
                let error = progress.last_error;
                let lost = || Broken::Later("it was stopped".to_owned());
                self.broken(error.as_ref().map_or_else(lost, Broken::of)).await
            }
            Phase::Attaching | Phase::Attached | Phase::Snapshot | Phase::Restarting => Ok(()),
        }
    }

    async fn broken(&mut self, broken: Broken) -> Result<(), Failure> {
        match broken {
            Broken::Never(why) => self.no_way_back(&why).await,
            Broken::Later(why) => {
                tracing::info!(event = "reverse_interrupted", task = self.driven.id, why);
                self.retry.0 = Instant::now() + self.retry.1;
                self.retry.1 = (self.retry.1 * 2).min(RETRY_MAX);
                if self.ledger.task.rollback == way_back::YES {
                    self.ledger
                        .write(|task| way_back::SOON.clone_into(&mut task.rollback))
                        .await?;
                }
                Ok(())
            }
        }
    }

    /// It was lost.
    async fn no_way_back(&mut self, why: &str) -> Result<(), Failure> {
        tracing::warn!(
            event = "no_way_back",
            task = self.driven.id,
            why,
            "the move cannot be rolled back any more"
        );
        self.close(why).await
    }

    /// There is none from here on. Who wished it is told.
    async fn close(&mut self, why: &str) -> Result<(), Failure> {
        if let Some(back) = self.take_back().await {
            self.driven.drop_back(back).await;
        }
        self.ledger
            .write(|task| {
                task.rollback = way_back::no(why);
                if task.wish == Some(Wish::Rollback) {
                    task.wish = None;
                    task.error = format!("not rolled back: {why}");
                }
            })
            .await?;
        Ok(())
    }

    // === the ends ===

    async fn finalize(&mut self, why: &'static str) -> Result<(), Failure> {
        // A wish is tried at once.
        let is_wished = self.ledger.task.wish == Some(Wish::Finalize);
        if !is_wished && Instant::now() < self.retry.0 {
            return Ok(());
        }
        // A move to this source may be writing where this one would clear.
        if !self.claims.want(&self.driven.id, &[&self.driven.source]) {
            return Ok(());
        }
        let was_reversible = self.ledger.task.is_reversible();
        if let Some(back) = self.take_back().await {
            self.driven.drop_back(back).await;
        }
        let done = self.driven.clear_left().await;
        self.claims.release(&self.driven.id);
        self.retry.0 = Instant::now() + RETRY_MAX;
        self.ledger
            .write(|task| {
                task.wish = None;
                if was_reversible {
                    task.rollback = way_back::no(why);
                }
                match &done {
                    Ok(()) => {
                        task.state = State::Finalized;
                        task.error.clear();
                    }
                    Err(failure) => task.error = format!("the source was not cleared: {failure}"),
                }
            })
            .await?;
        tracing::info!(
            event = "move_finalized",
            task = self.driven.id,
            why,
            error = self.ledger.task.error
        );
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<(), Failure> {
        let Some(back) = self.take_back().await else {
            return Ok(());
        };
        self.ledger
            .write(|task| {
                task.state = State::RollingBack;
                task.wish = None;
                task.error.clear();
            })
            .await?;
        match Box::pin(self.go_back(back)).await? {
            Ok(pause) => self.rolled_back(pause).await,
            Err((why, back)) => {
                tracing::warn!(
                    event = "rollback_given_up",
                    task = self.driven.id,
                    why,
                    "the shards stay where they are"
                );
                let rollback = match &back {
                    Some(_) => way_back::YES.to_owned(),
                    None => way_back::no(&why),
                };
                self.back = back;
                self.ledger
                    .write(|task| {
                        task.state = State::Moved;
                        task.error = format!("not rolled back: {why}");
                        task.rollback.clone_from(&rollback);
                    })
                    .await?;
                Ok(())
            }
        }
    }

    /// The cutover the other way. If it is given up: why, and the stream if it goes on. An outer error: nobody here knows.
    async fn go_back(&mut self, back: Back) -> Result<Result<Duration, (String, Option<Back>)>, Failure> {
        let driven = self.driven;
        let there = driven.reversed(back.number);
        let source = back.target().clone();
        if let Err(failure) = there.check_place(&source) {
            return Ok(Err((failure.to_string(), Some(back))));
        }
        // From here on expiries may be real on the source, and nobody else can go on with the stream.
        if let Err(failure) = driven.note_parked(&source, false).await {
            return Ok(Err((failure.to_string(), Some(back))));
        }
        let (copy, parted) = back.part();
        let mut running = Running::new(copy, source.clone());
        let mut why = String::new();
        for attempt in 0..CUTOVERS_MAX {
            let cutover = Cutover {
                driven: &there,
                attempt: self.ledger.task.attempts,
                max_pause: Duration::from_millis(self.ledger.task.max_pause_ms),
            };
            let ended = Box::pin(cutover.run(&mut running, &mut None, self.ledger)).await;
            there.count_cutover(&ended);
            match ended {
                Ok(pause) => return Ok(Ok(pause)),
                Err(failure) => why = failure.to_string(),
            }
            if there.has_moved().await? {
                return Ok(Ok(Duration::ZERO));
            }
            self.ledger
                .write(|task| {
                    task.attempts += 1;
                    task.error.clone_from(&why);
                })
                .await?;
            if running.copy().is_err() || there.check_place(&source).is_err() {
                break;
            }
            sleep(BACKOFF[attempt.min(BACKOFF.len() - 1)]).await;
        }
        there.until_released(self.ledger).await?;
        // Another server in the source's place has nothing that could be gone on with.
        let is_there = there.check_place(&source).is_ok();
        let Some(mut copy) = running.take().filter(|_| is_there) else {
            return Ok(Err((why, None)));
        };
        let parked = match copy.park().await {
            Ok(()) => driven
                .note_parked(&source, true)
                .await
                .map_err(|failure| failure.to_string()),
            Err(error) => Err(error.to_string()),
        };
        Ok(Err(match parked {
            Ok(()) => (why, Some(parted.with(copy))),
            Err(error) => (format!("{why}; {error}"), None),
        }))
    }

    /// The source has the shards again. What the target has left of them is cleared, if that does not take long: it is known as
    /// a copy of ours, and emptied before the next one in any case.
    async fn rolled_back(&mut self, pause: Duration) -> Result<(), Failure> {
        let there = self.driven.reversed(0);
        let cleared = match timeout(CLEAR_MAX, there.clear_left()).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(failure)) => format!("the copy on node '{}' was not cleared: {failure}", there.source),
            Err(_) => format!("the copy on node '{}' was not cleared in time", there.source),
        };
        self.ledger
            .write(|task| {
                task.state = State::RolledBack;
                task.rollback_pause_ms = pause.as_secs_f64() * 1000.0;
                task.rollback.clear();
                task.error.clone_from(&cleared);
                task.wish = None;
            })
            .await?;
        tracing::info!(
            event = "move_rolled_back",
            task = self.driven.id,
            pause_ms = self.ledger.task.rollback_pause_ms,
            error = cleared
        );
        Ok(())
    }
}

impl Driven<'_> {
    /// Notes on the source, as the stream knows it, whether another leader could go on with that.
    async fn note_parked(&self, source: &Address, parked: bool) -> Result<(), Failure> {
        let journal = Journal::of(&self.id);
        let mut client = self.client_at(source).await?;
        if !parked {
            client.ask(&["SELECT", &self.metadata().to_string()]).await?;
            let noted = Journal::read(&client.ask(&journal.ask()).await?);
            // It is noted once, by the stream itself, when it has become possible.
            if !noted.is_some_and(|noted| noted.parked) {
                return Err(Failure::Retry(
                    "the source has not noted yet that it follows; try again".to_owned(),
                ));
            }
        }
        self.act(&mut client, &[journal.parked(parked)]).await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
