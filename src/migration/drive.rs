//! One move, from the order to the cutover: what the leader does, and what it takes back when something is not as it should be.
//!
//! ```text
//!  old copies cleared ─▶ applier's user ─▶ Copy ─▶ close behind ─▶ [the word of an operator] ─▶ cutover ─▶ moved
//!        └──────────── anything wrong, or a wish to cancel: the target is cleared, nothing has moved ────┘
//! ```
//!
//! The source stays the only authority until the topology says otherwise; so everything before that is taken back by
//! clearing the target.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

#[cfg(not(test))]
use super::Copy;
use super::arrow::reached;
use super::claims::Claims;
use super::cooperative::CLIENTS_BYTES_MAX;
use super::cutover::{Cutover, Failure, until_cancelled};
use super::lag::{self, LagWatch};
use super::ledger::Ledger;
use super::reverse::Back;
#[cfg(test)]
use super::sim::Copy;
use super::state::Phase;
use super::task::{Fence, Move, State, Wish, way_back};
use super::{CopyLimits, CopyPlan, Endpoint, window};
use crate::command::APPLIER_PREFIX;
use crate::config::Secret;
use crate::control::fence::{self, FenceError, Words};
use crate::control::{Fleet, Mistake, NodeClient, bring_functions, makes};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use crate::metrics;
use crate::resp::Value;
use crate::store::Term;
use crate::topology::Topology;
use crate::topology::codec::shard_list;
use crate::worker::shared::Shared;

/// Between two notes of how far a copy is.
pub(super) const NOTE_PACE: Duration = Duration::from_millis(500);
/// How long the target is waited for before an operator's wish is looked at.
pub(super) const FOLLOW_PACE: Duration = Duration::from_secs(3);
/// Pauses behind cutovers that were given up.
pub(super) const BACKOFF: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];
/// Cutovers that are tried.
pub(super) const CUTOVERS_MAX: usize = 8;
/// Between two questions to a store that gives no answer.
pub(super) const STORE_PACE: Duration = Duration::from_millis(250);

/// What one move works with.
pub(super) struct Driven<'a> {
    pub(super) shared: &'a Shared,
    pub(super) fleet: &'a Fleet,
    pub(super) id: String,
    pub(super) term: Term,
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) source: String,
    pub(super) target: String,
    /// What it was ordered to rely on.
    pub(super) fence: Fence,
    /// It is the way back of the move that the record is of, written by the applier of this number.
    pub(super) reverse: Option<u32>,
}

/// A copy until it is stopped.
pub(super) struct Running(Option<Copy>);

impl Running {
    pub(super) const fn new(copy: Copy) -> Self {
        Self(Some(copy))
    }

    /// The copy, if it was not stopped.
    pub(super) fn take(self) -> Option<Copy> {
        self.0
    }

    pub(super) fn copy(&mut self) -> Result<&mut Copy, Failure> {
        self.0
            .as_mut()
            .ok_or_else(|| Failure::Final("its copy was stopped".to_owned()))
    }

    /// Stops it: nothing more is written to the target.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        match self.0.take() {
            Some(copy) => copy
                .stop()
                .await
                .map_err(|error| Failure::Final(error.to_string())),
            None => Ok(()),
        }
    }
}

/// How a move has ended.
pub(super) enum Ended {
    Moved { pause: Duration },
    Cancelled,
    Failed(String),
}

impl<'a> Driven<'a> {
    pub(super) fn new(shared: &'a Shared, fleet: &'a Fleet, ledger: &Ledger<'_>) -> Result<Self, String> {
        let topology = shared.topology.load();
        let shards =
            shard_list(&ledger.task.shards, topology.total_shards()).map_err(|error| error.to_string())?;
        Ok(Self {
            shared,
            fleet,
            id: ledger.id.clone(),
            term: ledger.term,
            shards: shards.into_iter().collect(),
            source: ledger.task.source.clone(),
            target: ledger.task.target.clone(),
            fence: ledger.task.fence,
            reverse: None,
        })
    }

    /// The other way.
    pub(super) fn reversed(&self, number: u32) -> Self {
        Self {
            id: self.id.clone(),
            shards: self.shards.clone(),
            source: self.target.clone(),
            target: self.source.clone(),
            reverse: Some(number),
            ..*self
        }
    }

    pub(super) fn node(&self, topology: &Topology, name: &str) -> Result<NodeIndex, Failure> {
        topology
            .node_named(name)
            .ok_or_else(|| Failure::Final(format!("there is no node '{name}' any more")))
    }

    /// A connection to a node as its administrator, taken over from leaders of the past.
    pub(super) async fn client(&self, name: &str) -> Result<NodeClient, Failure> {
        let topology = self.shared.topology.load_full();
        let node = self.node(&topology, name)?;
        let address = &topology.node(node).address;
        let (credentials, deadline) = self.shared.admin_login();
        let client = NodeClient::connect(address, &credentials, deadline).await?;
        let mut client = client.with_reply_max(CLIENTS_BYTES_MAX);
        fence::take_over(&mut client, topology.metadata_db(), self.term).await?;
        Ok(client)
    }

    pub(super) fn secret(&self) -> Result<&Secret, Failure> {
        let secret = self.shared.node_secret.get();
        secret.ok_or_else(|| Failure::Final("this proxy has no secret".to_owned()))
    }

    pub(super) fn metadata(&self) -> DbIndex {
        self.shared.topology.load().metadata_db()
    }

    /// The user that writes the copy: another one in each term, since a leader of the past may still have it.
    pub(super) fn applier(&self) -> String {
        match self.reverse {
            None => format!("{APPLIER_PREFIX}{}-{}", self.id, self.term),
            Some(number) => format!("{APPLIER_PREFIX}{}-{}-{number}", self.id, self.term),
        }
    }

    pub(super) fn dbs(&self) -> Vec<DbIndex> {
        let topology = self.shared.topology.load();
        self.shards
            .iter()
            .map(|&shard| topology.placement(shard).db)
            .collect()
    }

    pub(super) async fn act(
        &self,
        client: &mut NodeClient,
        commands: &[Words],
    ) -> Result<Vec<Value>, Failure> {
        Ok(fence::act(client, self.metadata(), self.term, commands).await?)
    }

    /// The same, and behind it where the node's history is: the last reply. Nothing of what was done is behind that.
    pub(super) async fn act_and_ask_offset(
        &self,
        client: &mut NodeClient,
        commands: &[Words],
    ) -> Result<Vec<Value>, Failure> {
        let question = fence::words(["INFO", "replication"]);
        Ok(fence::act_and_ask(client, self.metadata(), self.term, commands, &question).await?)
    }

    /// Makes the target ready: databases of ours are emptied, foreign keys refuse, the applier can log in.
    async fn prepare(&self) -> Result<CopyPlan, Failure> {
        let topology = self.shared.topology.load_full();
        let (source, target) = (
            self.node(&topology, &self.source)?,
            self.node(&topology, &self.target)?,
        );
        let elsewhere = |shard: &&ShardId| topology.placement(**shard).node != source;
        if let Some(shard) = self.shards.iter().find(elsewhere) {
            return Err(Failure::Final(format!(
                "shard {shard} does not live on node '{}' any more",
                self.source
            )));
        }
        let mut client = self.client(&self.target).await?;
        drop(self.client(&self.source).await?);
        let ours = self.our_copies(&mut client).await?;
        for db in self.dbs().into_iter().filter(|db| !ours.contains_key(db)) {
            client.ask(&["SELECT", &db.to_string()]).await?;
            if client.ask(&["DBSIZE"]).await? != Value::Int(0) {
                return Err(Failure::Final(format!(
                    "database {db} of node '{}' has keys that are not preshard's; empty it, or choose another node",
                    self.target
                )));
            }
        }
        // Whoever has written there writes nothing more, not even what is still on its way.
        let tasks = ours.values().chain([&self.id]).cloned().collect();
        let mut commands = self.appliers_gone(&mut client, &tasks).await?;
        let dbs: Vec<DbIndex> = ours.into_keys().collect();
        commands.extend(self.clearing(&dbs));
        commands.push(self.copies("HSET", Some(&self.id)));
        self.act(&mut client, &commands).await?;
        reached("cleared").await;
        self.make_applier(&mut client).await?;
        let (credentials, deadline) = self.shared.admin_login();
        bring_functions(&topology, &credentials, deadline, &[target], false).await;
        reached("applier-made").await;
        self.copy_plan(&topology)
    }

    /// From where to where, as which users.
    pub(super) fn copy_plan(&self, topology: &Topology) -> Result<CopyPlan, Failure> {
        let (source, target) = (
            self.node(topology, &self.source)?,
            self.node(topology, &self.target)?,
        );
        let (credentials, _) = self.shared.admin_login();
        let (login, signature) = self.applier_login(topology)?;
        let dbs = self.dbs().into_iter().map(|db| (db, db)).collect();
        Ok(CopyPlan {
            target: Endpoint {
                address: topology.node(target).address.clone(),
                credentials: login,
                signature,
            },
            source: Endpoint {
                address: topology.node(source).address.clone(),
                credentials,
                signature: None,
            },
            dbs,
            metadata_db: topology.metadata_db(),
            limits: CopyLimits::of(&self.shared.settings.load().migration),
        })
    }

    /// Gives the shards back to the source's own user, however long that takes, and takes back what was done on the target.
    pub(super) async fn undo(&self, ledger: &mut Ledger<'_>) -> Result<(), Failure> {
        reached("undoing").await;
        self.until_released(ledger).await?;
        let mut client = self.client(&self.target).await?;
        let own = self.own_copies(&mut client).await?;
        let mut commands = self.clearing(&own);
        commands.extend(self.applier_gone(&mut client, &self.target).await?);
        self.act(&mut client, &commands).await?;
        reached("undone").await;
        Ok(())
    }

    /// What the store says, which is asked until it answers, or until another proxy leads.
    pub(super) async fn stored(&self) -> Result<Arc<Topology>, Failure> {
        while self.fleet.leads() == Some(self.term) {
            if let Ok(stored) = self.fleet.store().load().await
                && let Some(topology) = stored.topology
            {
                return Ok(topology);
            }
            sleep(STORE_PACE).await;
        }
        Err(Failure::Final(
            "another proxy leads now, and goes on with it".to_owned(),
        ))
    }

    /// Whether the topology says that the shards live on the target. Nothing may be done before that is known.
    pub(super) async fn has_moved(&self) -> Result<bool, Failure> {
        let topology = if makes(Mistake::AsksNothing) {
            self.shared.topology.load_full()
        } else {
            self.stored().await?
        };
        let target = self.node(&topology, &self.target)?;
        Ok(self
            .shards
            .iter()
            .all(|&shard| topology.placement(shard).node == target))
    }

    /// Drives the move to its end.
    pub(super) async fn run(&self, ledger: &mut Ledger<'_>, back: &mut Option<Back>) -> Ended {
        match Box::pin(self.run_to_cutover(ledger, back)).await {
            Ok(ended) => ended,
            Err(failure) => {
                let why = failure.to_string();
                match self.has_moved().await {
                    Ok(true) => {
                        self.tidy().await;
                        return Ended::Moved {
                            pause: Duration::ZERO,
                        };
                    }
                    Ok(false) => {}
                    Err(error) => {
                        // What may be the only copy is not cleared: whoever leads next knows more.
                        tracing::warn!(event = "move_unclear", task = self.id, %error);
                        return Ended::Failed(why);
                    }
                }
                if let Err(error) = self.undo(ledger).await {
                    tracing::warn!(event = "move_not_undone", task = self.id, %error);
                }
                Ended::Failed(why)
            }
        }
    }

    async fn run_to_cutover(
        &self,
        ledger: &mut Ledger<'_>,
        back: &mut Option<Back>,
    ) -> Result<Ended, Failure> {
        // A leader of the past may have left something half done.
        if self.has_moved().await? {
            self.tidy().await;
            return Ok(Ended::Moved {
                pause: Duration::ZERO,
            });
        }
        self.until_released(ledger).await?;
        ledger.enter(State::Copying).await?;
        self.check_fence()?;
        let mut plan = self.prepare().await?;
        plan.limits.rate_bytes_per_s = ledger.task.rate;
        plan.limits.method = ledger.task.copy;
        let mut copy = Running::new(Copy::start(plan));
        self.prepare_back().await;
        reached("copying").await;
        if self.follow(&mut copy, ledger).await? {
            return self.cancelled(copy, ledger).await;
        }
        ledger.enter(State::Streaming).await?;
        reached("streaming").await;
        if self.until_word(&mut copy, ledger).await? {
            return self.cancelled(copy, ledger).await;
        }
        for attempt in 0..CUTOVERS_MAX {
            let cutover = Cutover {
                driven: self,
                attempt: ledger.task.attempts,
                max_pause: Duration::from_millis(ledger.task.max_pause_ms),
            };
            let ended = Box::pin(cutover.run(&mut copy, back, ledger)).await;
            self.count_cutover(&ended);
            match ended {
                Ok(pause) => return Ok(Ended::Moved { pause }),
                Err(Failure::Cancelled) => return self.cancelled(copy, ledger).await,
                Err(Failure::Retry(why)) => {
                    tracing::warn!(
                        event = "cutover_given_up",
                        task = self.id,
                        why,
                        "the shards stay where they are for now"
                    );
                    ledger
                        .write(|task| {
                            task.state = State::Streaming;
                            task.attempts += 1;
                            task.error.clone_from(&why);
                        })
                        .await?;
                }
                Err(failure @ Failure::Final(_)) => return Err(failure),
            }
            let backoff = BACKOFF[attempt.min(BACKOFF.len() - 1)];
            if let Ok(Failure::Cancelled) = timeout(backoff, until_cancelled(ledger)).await {
                return self.cancelled(copy, ledger).await;
            }
            // What has begun again was not verified.
            if self.follow(&mut copy, ledger).await? || self.until_word(&mut copy, ledger).await? {
                return self.cancelled(copy, ledger).await;
            }
        }
        Err(Failure::Final(format!(
            "{CUTOVERS_MAX} cutovers were given up; the last one: {}",
            ledger.task.error
        )))
    }

    /// Waits until the target is close behind. Whether it is to be cancelled.
    pub(super) async fn follow(
        &self,
        running: &mut Running,
        ledger: &mut Ledger<'_>,
    ) -> Result<bool, Failure> {
        let mut lag = LagWatch::default();
        loop {
            let copy = running.copy()?;
            // Dropped and begun anew it would never see the target close behind for long enough.
            let close = timeout(FOLLOW_PACE, copy.until_streaming()).await;
            let now = copy.progress();
            let follows = close.is_err() && now.phase == Phase::Streaming;
            let lagging = lag.note(follows.then(|| now.lag_bytes()), Instant::now());
            self.note(ledger, copy).await?;
            self.note_lagging(ledger, lagging.unwrap_or_default()).await?;
            if ledger.wish().await? == Some(Wish::Cancel) {
                return Ok(true);
            }
            if let Ok(reached) = close {
                reached.map_err(|error| Failure::Final(error.to_string()))?;
                return Ok(false);
            }
        }
    }

    /// Counts a cutover, of a rollback too.
    pub(super) fn count_cutover(&self, ended: &Result<Duration, Failure>) {
        let cells = self.shared.metrics.migration();
        let direction = match self.reverse {
            None => metrics::Direction::Forward,
            Some(_) => metrics::Direction::Back,
        };
        let outcome = match ended {
            Ok(pause) => {
                cells.pauses[direction].observe_shared(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
                metrics::Cutover::Moved
            }
            Err(Failure::Retry(_)) => metrics::Cutover::GivenUp,
            Err(Failure::Final(_)) => metrics::Cutover::Failed,
            Err(Failure::Cancelled) => metrics::Cutover::Cancelled,
        };
        cells.cutovers[direction][outcome].add_shared(1);
    }

    /// Notes how far a copy is.
    pub(super) async fn note(&self, ledger: &mut Ledger<'_>, copy: &Copy) -> Result<(), Failure> {
        let progress = copy.progress();
        let (keys, bytes, lag) = (progress.keys, progress.bytes, progress.lag_bytes());
        let cells = self.shared.metrics.migration();
        // A copy that begins again counts from the beginning.
        let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        cells.keys.add_shared(more(keys, ledger.task.keys));
        cells.bytes.add_shared(more(bytes, ledger.task.bytes));
        let restarts = progress.restarts.saturating_sub(ledger.restarts);
        cells.restarts.add_shared(restarts.into());
        ledger.restarts = progress.restarts;
        let same = |task: &Move| (task.keys, task.bytes, task.lag_bytes) == (keys, bytes, lag);
        if same(&ledger.task) {
            return Ok(());
        }
        ledger
            .write(|task| (task.keys, task.bytes, task.lag_bytes) = (keys, bytes, lag))
            .await?;
        Ok(())
    }

    /// Notes for how long the target has not come closer.
    async fn note_lagging(&self, ledger: &mut Ledger<'_>, lagging: Duration) -> Result<(), Failure> {
        let before = ledger.task.lagging_seconds;
        if lagging.as_secs() == before {
            return Ok(());
        }
        if before == 0 {
            let bytes = ledger.task.lag_bytes;
            tracing::warn!(
                event = "move_lags",
                task = self.id,
                bytes,
                ?lagging,
                "its target does not come closer: see its TASK STATUS"
            );
        } else if lagging.is_zero() {
            tracing::info!(event = "move_lags_no_more", task = self.id);
        }
        Ok(ledger.write(|task| lag::tell(task, lagging)).await?)
    }

    async fn cancelled(&self, mut copy: Running, ledger: &mut Ledger<'_>) -> Result<Ended, Failure> {
        copy.stop().await?;
        self.undo(ledger).await?;
        Ok(Ended::Cancelled)
    }
}

impl From<FenceError> for Failure {
    fn from(error: FenceError) -> Self {
        match error {
            FenceError::Deposed { .. } => Self::Final(error.to_string()),
            FenceError::Refused { .. } | FenceError::Ask(_) => Self::Retry(error.to_string()),
        }
    }
}

/// Drives a move, writes how it ended, and keeps its way back.
pub(super) async fn drive(
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    claims: Arc<Claims>,
    record: Arc<crate::store::Record>,
    term: Term,
) {
    let Some(mut ledger) = Ledger::open(&fleet, &record, term).await else {
        // It is begun again at once.
        return sleep(STORE_PACE).await;
    };
    let is_kept = matches!(ledger.task.state, State::Moved | State::RollingBack);
    if ledger.task.state.is_over() && !is_kept {
        // What is known of the records here may be a moment old.
        return;
    }
    let mut back = None;
    let driven = Driven::new(&shared, &fleet, &ledger);
    let ended = match &driven {
        Ok(driven) if is_kept => return window::keep(driven, &mut ledger, &claims, None).await,
        Ok(driven) => driven.run(&mut ledger, &mut back).await,
        Err(why) => Ended::Failed(why.clone()),
    };
    reached("ended").await;
    if fleet.leads() != Some(term) {
        // Whoever leads now goes on from the record.
        return;
    }
    let is_followed = back.is_some();
    let written = ledger
        .write(|task| match &ended {
            Ended::Moved { pause } => {
                task.state = State::Moved;
                task.pause_ms = pause.as_secs_f64() * 1000.0;
                task.rollback = match (is_followed, task.error.as_str()) {
                    (true, _) => way_back::SOON.to_owned(),
                    (false, "") => way_back::no("the leader changed at the cutover"),
                    (false, why) => way_back::no(why),
                };
                task.error.clear();
            }
            Ended::Cancelled => task.state = State::Cancelled,
            Ended::Failed(why) => {
                task.state = State::Failed;
                task.error.clone_from(why);
            }
        })
        .await;
    tracing::info!(event = "move_ended", task = ledger.id, state = ?ledger.task.state, pause_ms = ledger.task.pause_ms, error = ledger.task.error);
    if let Err(error) = written {
        tracing::warn!(event = "move_not_recorded", task = ledger.id, %error);
    }
    if let (Ok(driven), State::Moved) = (&driven, ledger.task.state) {
        window::keep(driven, &mut ledger, &claims, back).await;
    }
}
