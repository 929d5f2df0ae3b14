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

use tokio::time::{sleep, timeout};

#[cfg(not(test))]
use super::Copy;
use super::arrow::reached;
use super::cutover::{Cutover, Failure, until_cancelled};
use super::ledger::Ledger;
#[cfg(test)]
use super::sim::Copy;
use super::task::{Move, State, Wish};
use super::{CopyLimits, CopyPlan, Endpoint};
use crate::command::{APPLIER_PREFIX, applier_rules};
use crate::config::Secret;
use crate::control::fence::{self, FenceError, Words, words};
use crate::control::{AskError, Fleet, Mistake, NodeClient, bring_functions, make_users, makes};
use crate::ids::{DbIndex, NodeIndex, ShardId};
use crate::metrics;
use crate::resp::Value;
use crate::store::Term;
use crate::topology::Topology;
use crate::topology::codec::shard_list;
use crate::worker::shared::{NodeCredentials, Shared, user_password};

/// Between two notes of how far a copy is.
pub(super) const NOTE_PACE: Duration = Duration::from_millis(500);
/// How long the target is waited for before an operator's wish is looked at.
pub(super) const FOLLOW_PACE: Duration = Duration::from_secs(3);
/// Pauses behind cutovers that were given up.
const BACKOFF: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];
/// Cutovers that are tried.
const CUTOVERS_MAX: usize = 8;
/// Between two questions whether something was stored.
const STORE_PACE: Duration = Duration::from_millis(250);
/// Keys of the metadata database: which databases hold copies that preshard has made or left, by task.
pub(super) const COPIES_KEY: &str = "preshard:copies";

/// What one move works with.
pub(super) struct Driven<'a> {
    pub(super) shared: &'a Shared,
    pub(super) fleet: &'a Fleet,
    pub(super) id: String,
    pub(super) term: Term,
    pub(super) shards: BTreeSet<ShardId>,
    pub(super) source: String,
    pub(super) target: String,
}

/// A copy until it is stopped.
pub(super) struct Running(Option<Copy>);

impl Running {
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
        })
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
        let mut client = NodeClient::connect(address, &credentials, deadline).await?;
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
        format!("{APPLIER_PREFIX}{}-{}", self.id, self.term)
    }

    /// What ends the users, and the connections, over which leaders of the past have written this move's copy.
    async fn appliers_gone(&self, client: &mut NodeClient) -> Result<Words, Failure> {
        let mut command = words(["ACL", "DELUSER", &self.applier()]);
        let Value::Array(users) = client.ask(&["ACL", "USERS"]).await? else {
            return Err(AskError::NotRedis.into());
        };
        let theirs = format!("{APPLIER_PREFIX}{}", self.id);
        let old = users.iter().filter_map(Value::as_bytes);
        command.extend(
            old.filter(|user| user.starts_with(theirs.as_bytes()))
                .map(<[u8]>::to_vec),
        );
        Ok(command)
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

    /// Commands that empty databases and note that nothing of ours is in them.
    fn clearing(&self, dbs: &[DbIndex]) -> Vec<Words> {
        let mut commands = Vec::new();
        for db in dbs {
            commands.push(words(["SELECT", &db.to_string()]));
            commands.push(words(["FLUSHDB", "ASYNC"]));
        }
        commands.push(words(["SELECT", &self.metadata().to_string()]));
        let noted = dbs.iter().map(|db| words(["HDEL", COPIES_KEY, &db.to_string()]));
        commands.extend(noted);
        commands
    }

    /// The databases of this move on a node that hold a copy of ours, by the task that has noted it.
    async fn our_copies(
        &self,
        client: &mut NodeClient,
        is_ours: impl Fn(Option<&[u8]>) -> bool,
    ) -> Result<Vec<DbIndex>, Failure> {
        client.ask(&["SELECT", &self.metadata().to_string()]).await?;
        let mut ours = Vec::new();
        for db in self.dbs() {
            let task = client.ask(&["HGET", COPIES_KEY, &db.to_string()]).await?;
            ours.extend(is_ours(task.as_bytes()).then_some(db));
        }
        Ok(ours)
    }

    /// `HSET` or `HDEL` of the databases among those that hold copies.
    pub(super) fn copies(&self, verb: &str, value: Option<&str>) -> Words {
        let mut command = words([verb, COPIES_KEY]);
        for db in self.dbs() {
            command.push(db.to_string().into_bytes());
            command.extend(value.map(|value| value.as_bytes().to_vec()));
        }
        command
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
        let ours = self.our_copies(&mut client, |task| task.is_some()).await?;
        for db in self.dbs().into_iter().filter(|db| !ours.contains(db)) {
            client.ask(&["SELECT", &db.to_string()]).await?;
            if client.ask(&["DBSIZE"]).await? != Value::Int(0) {
                return Err(Failure::Final(format!(
                    "database {db} of node '{}' has keys that are not preshard's; empty it, or choose another node",
                    self.target
                )));
            }
        }
        let mut commands = vec![self.appliers_gone(&mut client).await?];
        commands.extend(self.clearing(&ours));
        commands.push(self.copies("HSET", Some(&self.id)));
        self.act(&mut client, &commands).await?;
        reached("cleared").await;
        let users = [(self.applier(), applier_rules())];
        make_users(&mut client, self.metadata(), self.term, self.secret()?, &users).await?;
        let (credentials, deadline) = self.shared.admin_login();
        bring_functions(&topology, &credentials, deadline, &[target], false).await;
        reached("applier-made").await;
        let dbs = self.dbs().into_iter().map(|db| (db, db)).collect();
        Ok(CopyPlan {
            target: Endpoint {
                address: topology.node(target).address.clone(),
                credentials: NodeCredentials {
                    username: Some(self.applier()),
                    password: Some(user_password(self.secret()?, &self.applier())),
                    tls: credentials.tls.clone(),
                },
            },
            source: Endpoint {
                address: topology.node(source).address.clone(),
                credentials,
            },
            dbs,
            metadata_db: topology.metadata_db(),
            limits: CopyLimits::of(&self.shared.settings.load().migration),
        })
    }

    /// Takes back what was done on the target, and gives the shards back to the source's own user.
    pub(super) async fn undo(&self) -> Result<(), Failure> {
        reached("undoing").await;
        self.release().await?;
        let mut client = self.client(&self.target).await?;
        // What was not noted as this move's before it began is somebody else's.
        let own = Some(self.id.as_bytes());
        let ours = self.our_copies(&mut client, |task| task == own).await?;
        let mut commands = vec![self.appliers_gone(&mut client).await?];
        commands.extend(self.clearing(&ours));
        self.act(&mut client, &commands).await?;
        reached("undone").await;
        Ok(())
    }

    /// What the store says, which is asked until it answers, or until another proxy leads.
    async fn stored(&self) -> Result<Arc<Topology>, Failure> {
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
    pub(super) async fn run(&self, ledger: &mut Ledger<'_>) -> Ended {
        match Box::pin(self.run_to_cutover(ledger)).await {
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
                if let Err(error) = self.undo().await {
                    tracing::warn!(event = "move_not_undone", task = self.id, %error);
                }
                Ended::Failed(why)
            }
        }
    }

    async fn run_to_cutover(&self, ledger: &mut Ledger<'_>) -> Result<Ended, Failure> {
        // A leader of the past may have left something half done.
        if self.has_moved().await? {
            self.tidy().await;
            return Ok(Ended::Moved {
                pause: Duration::ZERO,
            });
        }
        self.release().await?;
        ledger.enter(State::Copying).await?;
        let mut plan = self.prepare().await?;
        plan.limits.rate_bytes_per_s = ledger.task.rate;
        let mut copy = Running(Some(Copy::start(plan)));
        reached("copying").await;
        if self.follow(&mut copy, ledger).await? {
            return self.cancelled(copy).await;
        }
        ledger.enter(State::Streaming).await?;
        reached("streaming").await;
        if self.until_word(&mut copy, ledger).await? {
            return self.cancelled(copy).await;
        }
        for attempt in 0..CUTOVERS_MAX {
            let cutover = Cutover {
                driven: self,
                attempt: ledger.task.attempts,
                max_pause: Duration::from_millis(ledger.task.max_pause_ms),
            };
            let ended = Box::pin(cutover.run(&mut copy, ledger)).await;
            self.count_cutover(&ended);
            match ended {
                Ok(pause) => return Ok(Ended::Moved { pause }),
                Err(Failure::Cancelled) => return self.cancelled(copy).await,
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
                return self.cancelled(copy).await;
            }
            // What has begun again was not verified.
            if self.follow(&mut copy, ledger).await? || self.until_word(&mut copy, ledger).await? {
                return self.cancelled(copy).await;
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
        loop {
            let copy = running.copy()?;
            // Dropped and begun anew it would never see the target close behind for long enough.
            let close = timeout(FOLLOW_PACE, copy.until_streaming()).await;
            self.note(ledger, copy).await?;
            if ledger.wish().await? == Some(Wish::Cancel) {
                return Ok(true);
            }
            if let Ok(reached) = close {
                reached.map_err(|error| Failure::Final(error.to_string()))?;
                return Ok(false);
            }
        }
    }

    fn count_cutover(&self, ended: &Result<Duration, Failure>) {
        let cells = self.shared.metrics.migration();
        let outcome = match ended {
            Ok(pause) => {
                cells
                    .pauses
                    .observe_shared(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
                metrics::Cutover::Moved
            }
            Err(Failure::Retry(_)) => metrics::Cutover::GivenUp,
            Err(Failure::Final(_)) => metrics::Cutover::Failed,
            Err(Failure::Cancelled) => metrics::Cutover::Cancelled,
        };
        cells.cutovers[outcome].add_shared(1);
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

    async fn cancelled(&self, mut copy: Running) -> Result<Ended, Failure> {
        copy.stop().await?;
        self.undo().await?;
        Ok(Ended::Cancelled)
    }

    /// Takes the source's copy away: of the shards that live elsewhere, be it on the target or farther on.
    pub(super) async fn finalize(&self) -> Result<(), Failure> {
        let topology = self.stored().await?;
        let Some(source) = topology.node_named(&self.source) else {
            // It has left with all that it had.
            return Ok(());
        };
        let lives_here = |db: DbIndex| {
            let mut placed = topology.placements_by_shard();
            placed.any(|(_, placement)| placement.node == source && placement.db == db)
        };
        reached("finalizing").await;
        let mut client = self.client(&self.source).await?;
        // A source that was away when the move ended has no note. The topology says that what it has is no original.
        let own = self.id.as_bytes();
        let mut ours = self
            .our_copies(&mut client, |task| task.is_none_or(|task| task == own))
            .await?;
        ours.retain(|&db| !lives_here(db));
        let commands = self.clearing(&ours);
        self.act(&mut client, &commands).await?;
        reached("finalized").await;
        Ok(())
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

/// Drives a move and writes how it ended.
pub(super) async fn drive(
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    record: Arc<crate::store::Record>,
    term: Term,
) {
    let Some(mut ledger) = Ledger::open(&fleet, &record, term).await else {
        return;
    };
    if ledger.task.state.is_over() {
        // What is known of the records here may be a moment old.
        return;
    }
    let ended = match Driven::new(&shared, &fleet, &ledger) {
        Ok(driven) => driven.run(&mut ledger).await,
        Err(why) => Ended::Failed(why),
    };
    reached("ended").await;
    if fleet.leads() != Some(term) {
        // Whoever leads now goes on from the record.
        return;
    }
    let written = ledger
        .write(|task| match &ended {
            Ended::Moved { pause } => {
                task.state = State::Moved;
                task.pause_ms = pause.as_secs_f64() * 1000.0;
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
}

/// Clears what a finished move has left on its source.
pub(super) async fn finalize(
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    record: Arc<crate::store::Record>,
    term: Term,
) {
    let Some(mut ledger) = Ledger::open(&fleet, &record, term).await else {
        return;
    };
    if ledger.task.state != State::Moved {
        return;
    }
    let done = match Driven::new(&shared, &fleet, &ledger) {
        Ok(driven) => driven.finalize().await.map_err(|failure| failure.to_string()),
        Err(why) => Err(why),
    };
    let written = ledger
        .write(|task| {
            task.wish = None;
            match &done {
                Ok(()) => task.state = State::Finalized,
                Err(why) => task.error.clone_from(why),
            }
        })
        .await;
    if let Err(error) = written {
        tracing::warn!(event = "move_not_recorded", task = ledger.id, %error);
    }
}
