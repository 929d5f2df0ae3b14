//! The moves of a cluster: orders come in on any proxy, the leader carries them out, one at a time for each node.
//!
//! ```text
//!  any proxy   order ─▶ does it make sense? ─▶ a record (planned)          wish ─▶ written into the record
//!                                                   │ the store tells
//!  the leader  ◀────────────────────────────────────┘  both nodes free? ─▶ drive … ─▶ the record says how it ended
//! ```
//!
//! A leader that dies leaves the record and the topology; the next one begins the move again, or notes that it was done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::claims::Claims;
use super::drive::drive;
use super::ledger::unix_now;
use super::preflight::{Sources, refusals};
use super::task::{Answer, Move, State, Wish, way_back};
use super::verify::{Sample, Verification};
use crate::control::Fleet;
use crate::ids::{NodeIndex, ShardId};
use crate::store::{Record, Revision, StoreError, Term};
use crate::topology::Topology;
use crate::topology::codec::{ranges, shard_list};
use crate::worker::shared::Shared;

/// Between two looks at the records when nothing is told.
const PACE: Duration = Duration::from_secs(1);
/// How long a wish is waited for.
const WISH_MAX: Duration = Duration::from_secs(10);
const WISH_PACE: Duration = Duration::from_millis(50);
/// The longest that shards are held, unless it is said.
pub const MAX_PAUSE_MS: u64 = 500;

/// What an operator orders.
#[derive(Clone, Debug)]
pub struct MoveOrder {
    /// The shards.
    pub shards: Vec<ShardId>,
    /// The name of the node that is to have them.
    pub target: String,
    /// It cuts over only when it is told to.
    pub manual: bool,
    /// Bytes in a second.
    pub rate: Option<u64>,
    /// The longest that the shards may be held, in milliseconds.
    pub max_pause_ms: u64,
    /// Source and target are compared before the cutover.
    pub verify: Option<Sample>,
}

/// What was ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ordered {
    /// The ids of its tasks.
    pub ids: Vec<String>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The moves of a cluster, as one of its proxies sees them.
#[derive(Debug)]
pub struct Mover {
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    claims: Arc<Claims>,
}

impl Mover {
    /// Nothing is done before [`Self::run`].
    #[must_use]
    pub fn new(shared: Arc<Shared>, fleet: Arc<Fleet>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            fleet,
            claims: Arc::default(),
        })
    }

    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(super) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        self.shared.topology.load_full()
    }

    /// Carries moves out while this proxy leads. Runs as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut news = self.fleet.subscribe();
        let mut running: JoinSet<()> = JoinSet::new();
        let mut driven: BTreeMap<String, tokio::task::Id> = BTreeMap::new();
        let mut led: Option<Term> = None;
        loop {
            let term = self.fleet.leads();
            if term != led {
                // What was driven in a term of the past is not ours any more.
                running.shutdown().await;
                driven.clear();
                self.claims.clear();
                led = term;
            }
            if let Some(term) = term {
                let records = news.borrow_and_update().records.clone();
                self.begin(&records, term, &mut running, &mut driven);
            }
            tokio::select! {
                Some(ended) = running.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(event = "move_died", %error);
                            error.id()
                        }
                    };
                    driven.retain(|_, task| *task != id);
                }
                _ = timeout(PACE, news.changed()) => {}
                () = self.claims.until_wanted() => {}
            }
        }
    }

    /// Begins what waits and whose nodes are free.
    fn begin(
        &self,
        records: &BTreeMap<String, Arc<Record>>,
        term: Term,
        running: &mut JoinSet<()>,
        driven: &mut BTreeMap<String, tokio::task::Id>,
    ) {
        let moves: Vec<(&Arc<Record>, Move)> = records
            .values()
            .filter_map(|record| Some((record, Move::decode(&record.document)?)))
            .collect();
        let mut busy = BTreeSet::new();
        for (record, task) in &moves {
            // What is over keeps its way back beside other moves.
            if driven.contains_key(&record.id) && !task.state.is_over() {
                busy.extend([task.source.clone(), task.target.clone()]);
            }
        }
        self.claims.grant(&mut busy);
        let mut waiting: Vec<_> = moves
            .iter()
            .filter(|(record, task)| !driven.contains_key(&record.id) && !task.state.is_over())
            .collect();
        // What was begun before goes first, then what was ordered first.
        waiting.sort_by_key(|(record, task)| (task.state == State::Planned, task.started, record.id.clone()));
        for (record, task) in waiting {
            if busy.contains(&task.source) || busy.contains(&task.target) || self.is_followed(&moves, task) {
                continue;
            }
            busy.extend([task.source.clone(), task.target.clone()]);
            self.spawn(record, term, running, driven);
        }
        for (record, task) in &moves {
            if task.state == State::Moved && !driven.contains_key(&record.id) {
                self.spawn(record, term, running, driven);
            }
        }
    }

    fn spawn(
        &self,
        record: &Arc<Record>,
        term: Term,
        running: &mut JoinSet<()>,
        driven: &mut BTreeMap<String, tokio::task::Id>,
    ) {
        let work = drive(
            Arc::clone(&self.shared),
            Arc::clone(&self.fleet),
            Arc::clone(&self.claims),
            Arc::clone(record),
            term,
        );
        driven.insert(record.id.clone(), running.spawn(work).id());
    }

    /// Whether a source still follows with some of these shards: it is told to end that, and the move waits.
    fn is_followed(&self, moves: &[(&Arc<Record>, Move)], task: &Move) -> bool {
        let total = self.shared.topology.load().total_shards();
        let shards = shard_list(&task.shards, total).unwrap_or_default();
        let is_one = |shard: &ShardId| shards.contains(shard);
        task.state == State::Planned
            && moves
                .iter()
                .filter(|(_, other)| other.is_reversible())
                .any(|(_, other)| {
                    let theirs = shard_list(&other.shards, total).unwrap_or_default();
                    theirs.iter().any(is_one)
                })
    }

    /// Tasks whose way back goes to this node.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn ways_back_to(&self, node: &str) -> Result<Vec<String>, String> {
        let records = self.fleet.store().records().await;
        let records = records.map_err(|error| error.to_string())?;
        let ways = records.into_iter().filter(|record| {
            let task = Move::decode(&record.document);
            task.is_some_and(|task| task.source == node && task.is_reversible())
        });
        Ok(ways.map(|record| record.id).collect())
    }

    /// Orders moves, one for each node that has some of the shards.
    ///
    /// # Errors
    /// Why it makes no sense, or cannot be done; nothing was ordered.
    pub async fn order(&self, order: &MoveOrder) -> Result<Ordered, String> {
        let topology = self.topology();
        let (target, sources) = sources_of(&topology, order)?;
        self.check_free(&topology, order).await?;
        let surveys = self.surveys(&topology, target, &sources, order.rate).await;
        if let Some(why) = refusals(&surveys) {
            return Err(why);
        }
        let mut ordered = Ordered::default();
        for (survey, shards) in surveys.into_iter().zip(sources.values()) {
            let task = Move {
                kind: "move".to_owned(),
                shards: ranges(shards),
                source: survey.source,
                target: order.target.clone(),
                manual: order.manual,
                rate: order.rate,
                max_pause_ms: order.max_pause_ms,
                verify: order.verify.map(Verification::asked),
                estimated_bytes: survey.bytes,
                estimated_seconds: survey.seconds,
                rollback: way_back::expected(survey.no_rollback.as_deref()),
                warnings: survey.no_rollback.into_iter().chain(survey.warnings).collect(),
                started: unix_now(),
                ..Move::default()
            };
            let id = format!("m{:x}{:04x}", unix_now(), fastrand::u16(..));
            let put = self
                .fleet
                .store()
                .put_record(&id, &task.encode(), Revision::NONE, None)
                .await;
            put.map_err(|error| error.to_string())?;
            ordered.ids.push(id);
            ordered.warnings.extend(task.warnings);
        }
        Ok(ordered)
    }

    /// None of the shards may be on its way already.
    pub(super) async fn check_free(&self, topology: &Topology, order: &MoveOrder) -> Result<(), String> {
        let records = self
            .fleet
            .store()
            .records()
            .await
            .map_err(|error| error.to_string())?;
        for record in records {
            let Some(task) = Move::decode(&record.document).filter(|task| !task.state.is_over()) else {
                continue;
            };
            let shards = shard_list(&task.shards, topology.total_shards()).unwrap_or_default();
            if let Some(shard) = order.shards.iter().find(|shard| shards.contains(shard)) {
                return Err(format!("shard {shard} is moved by task {} already", record.id));
            }
        }
        Ok(())
    }

    /// Says what an operator wants of a task, and waits until it is so.
    ///
    /// # Errors
    /// It cannot be, or has not become so in time.
    pub async fn wish(&self, id: &str, wish: Wish) -> Result<(), String> {
        let until = Instant::now() + WISH_MAX;
        let mut written = false;
        loop {
            let record = self
                .fleet
                .store()
                .record(id)
                .await
                .map_err(|error| error.to_string())?;
            let task = record.as_ref().and_then(|record| Move::decode(&record.document));
            let (Some(record), Some(mut task)) = (record, task) else {
                return Err(format!("there is no move '{id}'"));
            };
            match task.answer(id, wish) {
                Answer::Done => return Ok(()),
                Answer::Refuse(why) => return Err(why),
                Answer::Take => {}
            }
            // It was looked at, and did not become so.
            if written && task.wish.is_none() && task.state == State::Moved && !task.error.is_empty() {
                return Err(task.error);
            }
            // It is on its way: nothing has to be said.
            written |= wish == Wish::Rollback && task.state == State::RollingBack;
            if !written {
                task.wish = Some(wish);
                match self
                    .fleet
                    .store()
                    .put_record(id, &task.encode(), record.revision, None)
                    .await
                {
                    Ok(_) => written = true,
                    // The leader was faster.
                    Err(StoreError::Changed { .. }) => continue,
                    Err(error) => return Err(error.to_string()),
                }
            }
            if Instant::now() >= until {
                return Err(format!(
                    "task {id} has been told, and has not done so within {WISH_MAX:?}; see TASK STATUS {id}"
                ));
            }
            sleep(WISH_PACE).await;
        }
    }
}

/// The node that is to have an order's shards, and those that have them now.
pub(super) fn sources_of(topology: &Topology, order: &MoveOrder) -> Result<(NodeIndex, Sources), String> {
    let target = topology
        .node_named(&order.target)
        .ok_or_else(|| format!("there is no node '{}'", order.target))?;
    let mut sources = Sources::new();
    for &shard in &order.shards {
        let node = topology.placement(shard).node;
        if node != target {
            sources.entry(node).or_default().push(shard);
        }
    }
    if sources.is_empty() {
        return Err(format!(
            "all of these shards live on node '{}' already",
            order.target
        ));
    }
    Ok((target, sources))
}
