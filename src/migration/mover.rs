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

use tokio::time::{Instant, sleep, timeout};

use super::chores::{Chore, children_of, chores};
use super::claims::Claims;
use super::drive::drive;
use super::driving::Driving;
use super::group::{Children, Group};
use super::ledger::unix_now;
use super::preflight::{Sources, refusals};
use super::release::{orphans, release_orphan};
use super::task::{Answer, Move, State, Wish, way_back};
use super::verify::{Sample, Verification};
use crate::config::CopyMethod;
use crate::control::Fleet;
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::MigrationFigures;
use crate::store::{Record, Revision, StoreError, Term};
use crate::topology::codec::shard_list;
use crate::topology::{Topology, Unit};
use crate::worker::shared::Shared;

/// Between two looks at the records when nothing is told.
const PACE: Duration = Duration::from_secs(1);
/// Before more is written after the store had no room.
const FULL_AGAIN: Duration = Duration::from_secs(5);
/// Stands for what is done about records beside driving moves. No task has this name.
const CHORES: &str = "";
/// How long a wish is waited for.
const WISH_MAX: Duration = Duration::from_secs(10);
const WISH_PACE: Duration = Duration::from_millis(50);

/// What an operator orders.
#[derive(Clone, Debug)]
pub struct MoveOrder {
    /// The shards.
    pub shards: Vec<ShardId>,
    /// The name of the node that is to have them.
    pub target: String,
    /// It cuts over only when it is told to.
    pub manual: bool,
    /// How keys are copied.
    pub copy: CopyMethod,
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
    /// The id of its task.
    pub id: String,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// The moves of a cluster, as one of its proxies sees them.
#[derive(Debug)]
pub struct Mover {
    pub(super) shared: Arc<Shared>,
    pub(super) fleet: Arc<Fleet>,
    claims: Arc<Claims>,
}

impl Mover {
    /// Nothing is done before [`Self::run`].
    #[must_use]
    pub fn new(shared: Arc<Shared>, fleet: Arc<Fleet>) -> Arc<Self> {
        let known = fleet.subscribe();
        let figures = move || figures(&known.borrow().records);
        shared.metrics.facts().set_migration(figures);
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
        let mut driving = Driving::default();
        let mut led: Option<Term> = None;
        loop {
            let term = self.fleet.leads();
            if term != led {
                // What was driven in a term of the past is not ours any more.
                driving.shutdown().await;
                self.claims.clear();
                led = term;
            }
            if let Some(term) = term {
                let records = news.borrow_and_update().records.clone();
                driving.keep(|id| records.contains_key(id));
                self.begin(&records, term, &mut driving);
                self.look_after(&records, term, &mut driving);
                self.release_orphans(&records, term, &mut driving);
            }
            tokio::select! {
                () = driving.until_ended() => {}
                _ = timeout(PACE, news.changed()) => {}
                () = self.claims.until_wanted() => {}
            }
        }
    }

    /// Begins what waits and whose nodes are free.
    fn begin(&self, records: &BTreeMap<String, Arc<Record>>, term: Term, driving: &mut Driving) {
        let moves: Vec<(&Arc<Record>, Move)> = records
            .values()
            .filter_map(|record| Some((record, Move::decode(&record.document)?)))
            .collect();
        let mut busy = BTreeSet::new();
        for (record, task) in &moves {
            // What is over keeps its way back beside other moves.
            if driving.has(&record.id) && !task.state.is_over() {
                busy.extend([task.source.clone(), task.target.clone()]);
            }
        }
        self.claims.grant(&mut busy);
        let mut waiting: Vec<_> = moves
            .iter()
            .filter(|(record, task)| !driving.has(&record.id) && !task.state.is_over())
            .collect();
        // What was begun before goes first, then what was ordered first.
        waiting.sort_by_key(|(record, task)| (task.state == State::Planned, task.started, record.id.clone()));
        for (record, task) in waiting {
            if busy.contains(&task.source) || busy.contains(&task.target) || self.is_followed(&moves, task) {
                continue;
            }
            // One that has failed just now keeps its nodes meanwhile: something of it may be half done there.
            busy.extend([task.source.clone(), task.target.clone()]);
            if !driving.rests(&record.id) {
                driving.spawn(&record.id, self.drive(record, term));
            }
        }
        for (record, task) in &moves {
            if task.state == State::Moved && !driving.has(&record.id) && !driving.rests(&record.id) {
                driving.spawn(&record.id, self.drive(record, term));
            }
        }
    }

    fn drive(&self, record: &Arc<Record>, term: Term) -> impl Future<Output = ()> + Send + use<> {
        drive(
            Arc::clone(&self.shared),
            Arc::clone(&self.fleet),
            Arc::clone(&self.claims),
            Arc::clone(record),
            term,
        )
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

    /// Groups go on, and tasks of old go.
    fn look_after(&self, records: &BTreeMap<String, Arc<Record>>, term: Term, driving: &mut Driving) {
        if driving.has(CHORES) {
            return;
        }
        let chores = chores(records, &self.shared.topology.load(), unix_now());
        if !chores.is_empty() {
            driving.spawn(CHORES, do_chores(Arc::clone(&self.fleet), chores, term));
        }
    }

    /// No shards are held for a task that is over.
    fn release_orphans(&self, records: &BTreeMap<String, Arc<Record>>, term: Term, driving: &mut Driving) {
        let topology = self.topology();
        let left: Vec<&Unit> = orphans(&topology, records)
            .filter(|unit| !driving.has(&unit.task))
            .collect();
        for unit in left {
            let (shared, fleet) = (Arc::clone(&self.shared), Arc::clone(&self.fleet));
            let work = release_orphan(shared, fleet, unit.clone(), term);
            driving.spawn(&unit.task, work);
        }
    }

    /// Orders a move, or a task of several if the shards live on several nodes.
    ///
    /// # Errors
    /// Why it makes no sense, or cannot be done; nothing was ordered.
    pub async fn order(&self, order: &MoveOrder) -> Result<Ordered, String> {
        let topology = self.topology();
        let (target, sources) = sources_of(&topology, order)?;
        if sources.len() > 1 {
            let name = |node: NodeIndex| topology.node(node).name.clone();
            let ways = sources
                .into_iter()
                .map(|(node, shards)| (name(node), order.target.clone(), shards));
            let group = Group {
                manual: order.manual,
                copy: order.copy,
                rate: order.rate,
                max_pause_ms: order.max_pause_ms,
                verify: order.verify,
                ..Group::whole("moves", "", ways.collect())
            };
            return self.order_group(group, None).await;
        }
        self.check_free(&topology, &order.shards, &[&order.target])
            .await?;
        let surveys = self
            .surveys(&topology, target, &sources, (order.copy, order.rate))
            .await;
        if let Some(why) = refusals(&surveys) {
            return Err(why);
        }
        let mut task = Move {
            kind: "move".to_owned(),
            target: order.target.clone(),
            manual: order.manual,
            copy: order.copy,
            rate: order.rate,
            max_pause_ms: order.max_pause_ms,
            verify: order.verify.map(Verification::asked),
            started: unix_now(),
            ..Move::default()
        };
        for survey in surveys {
            task.fence = survey.fence();
            task.shards = survey.shards;
            task.source = survey.source;
            task.estimated_bytes = survey.bytes;
            task.estimated_seconds = survey.seconds;
            task.rollback = way_back::expected(survey.no_rollback.as_deref());
            task.warnings = survey.no_rollback.into_iter().chain(survey.warnings).collect();
        }
        let id = new_id('m');
        let put = self
            .fleet
            .store()
            .put_record(&id, &task.encode(), Revision::NONE, None)
            .await;
        put.map_err(|error| error.to_string())?;
        Ok(Ordered {
            id,
            warnings: task.warnings,
        })
    }

    /// Says what an operator wants of a task, and waits until it is so.
    ///
    /// # Errors
    /// It cannot be, or has not become so in time.
    pub async fn wish(&self, id: &str, wish: Wish) -> Result<(), String> {
        let until = Instant::now() + WISH_MAX;
        let (mut written, mut ends_verification) = (false, false);
        loop {
            let record = self
                .fleet
                .store()
                .record(id)
                .await
                .map_err(|error| error.to_string())?;
            let group = record.as_ref().and_then(|record| Group::decode(&record.document));
            if let (Some(record), Some(group)) = (&record, group) {
                if written && wish != Wish::Cancel && group.wish != Some(wish) {
                    return group.after(wish);
                }
                let wished = match wish {
                    Wish::Rollback => {
                        let children = self.children_of(id).await?;
                        group.wished_back(id, &children)?
                    }
                    Wish::Cutover | Wish::Cancel | Wish::Finalize => group.wished(id, wish)?,
                };
                let Some(group) = wished else {
                    return Ok(());
                };
                written = written || self.write_wish(record, &group.encode()).await?;
                self.until_told(id, until).await?;
                continue;
            }
            let task = record.as_ref().and_then(|record| Move::decode(&record.document));
            let (Some(record), Some(mut task)) = (record, task) else {
                return Err(format!("there is no move '{id}'"));
            };
            if ends_verification && task.wish != Some(wish) {
                return Ok(());
            }
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
                written = self.write_wish(&record, &task.encode()).await?;
                if !written {
                    continue;
                }
                // The move itself cannot be cancelled any more.
                ends_verification = wish == Wish::Cancel && task.state == State::Moved;
            }
            self.until_told(id, until).await?;
        }
    }

    async fn children_of(&self, id: &str) -> Result<Children, String> {
        let records = self.fleet.store().records().await;
        let records = records.map_err(|error| error.to_string())?.into_iter();
        let records = records.map(|record| (record.id.clone(), Arc::new(record)));
        Ok(children_of(id, &records.collect()))
    }

    /// Whether it was written: the leader may have been faster.
    async fn write_wish(&self, record: &Record, document: &str) -> Result<bool, String> {
        let put = self
            .fleet
            .store()
            .put_record(&record.id, document, record.revision, None)
            .await;
        match put {
            Ok(_) => Ok(true),
            Err(StoreError::Changed { .. }) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn until_told(&self, id: &str, until: Instant) -> Result<(), String> {
        if Instant::now() >= until {
            return Err(format!(
                "task {id} has been told, and has not done so within {WISH_MAX:?}; see TASK STATUS {id}"
            ));
        }
        sleep(WISH_PACE).await;
        Ok(())
    }
}

/// What the records say of moves, for metrics.
fn figures(records: &BTreeMap<String, Arc<Record>>) -> MigrationFigures {
    let mut figures = MigrationFigures::default();
    let mut tasks: BTreeMap<String, u64> = BTreeMap::new();
    for task in records
        .values()
        .filter_map(|record| Move::decode(&record.document))
    {
        *tasks.entry(task.encode_state()).or_default() += 1;
        if !task.state.is_over() {
            figures.lag_bytes = figures.lag_bytes.saturating_add(task.lag_bytes);
            figures.lagging += u64::from(task.lagging_seconds > 0);
        }
    }
    figures.tasks = tasks.into_iter().collect();
    figures
}

/// The name of a task.
pub(super) fn new_id(letter: char) -> String {
    format!("{letter}{:x}{:04x}", unix_now(), fastrand::u16(..))
}

/// Writes what was decided. Whatever cannot be written is decided anew.
async fn do_chores(fleet: Arc<Fleet>, chores: Vec<Chore>, term: Term) {
    let store = fleet.store();
    for chore in chores {
        let (id, done) = match &chore {
            Chore::Write { id, document, over } => {
                let put = store.put_record(id, document, *over, Some(term)).await;
                (id, put.map(|_| ()))
            }
            Chore::Forget { id, over } => (id, store.delete_record(id, *over, Some(term)).await),
        };
        match done {
            Ok(()) => {}
            Err(error @ StoreError::Limit(_)) => {
                tracing::warn!(event = "tasks_full", task = id, %error, "TASK FINALIZE what has moved");
                // Not again at once: nothing changes before an operator does something.
                return sleep(FULL_AGAIN).await;
            }
            Err(error) => {
                tracing::debug!(event = "task_not_written", task = id, %error);
                return;
            }
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
