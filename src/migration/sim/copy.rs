//! A copy as a move needs it: what the target has runs behind what the source has, at a pace of chance.
//!
//! The real one has its own tests with real servers; here only its promises are kept, and its dangers: writes that are on their
//! way when it is stopped, or when its leader is not one any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::data::Data;
use super::node::Words;
use super::wire::{Line, round_trip, some};
use super::world::{Peer, World};
use crate::config::Secret;
use crate::ids::DbIndex;
use crate::migration::{
    Checked, Compare, CopyError, CopyPlan, DbCounts, Drained, Journal, Noted, Phase, Progress, Start,
    Unparked,
};
use crate::resp::Value;
use crate::topology::Address;

/// Unanswered commands at the target.
const WINDOW: usize = 8;
const RESTARTS_MAX: u32 = 2;
/// Close behind for so long.
const STEADY: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Copy {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    world: Arc<World>,
    plan: CopyPlan,
    who: usize,
    source: usize,
    target: usize,
    progress: watch::Sender<Progress>,
    in_flight: AtomicUsize,
    /// The connection that writes.
    line: std::sync::Mutex<Option<Arc<Line>>>,
}

impl Copy {
    pub(crate) fn start(plan: CopyPlan) -> Self {
        let world = World::current();
        let find = |address: &Address| {
            world
                .nodes
                .iter()
                .position(|node| node.address == *address)
                .unwrap()
        };
        let user = plan.source.credentials.username.clone().unwrap();
        let shared = Arc::new(Shared {
            who: user.strip_prefix("admin-").unwrap().parse().unwrap(),
            source: find(&plan.source.address),
            target: find(&plan.target.address),
            progress: watch::Sender::default(),
            in_flight: AtomicUsize::new(0),
            line: std::sync::Mutex::default(),
            world: Arc::clone(&world),
            plan,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(Arc::clone(&shared)));
        Self { shared, tasks }
    }

    /// No stream back is simulated: moves go on without one.
    pub(crate) async fn ensure_history(_: &CopyPlan) -> Result<(), CopyError> {
        Err(CopyError::NotStreaming)
    }

    pub(crate) fn attach(plan: CopyPlan, _: Journal) -> Self {
        Self::start(plan)
    }

    pub(crate) fn resume(plan: CopyPlan, journal: Journal, _: Noted) -> Self {
        Self::attach(plan, journal)
    }

    pub(crate) async fn until_attached(&mut self) -> Result<(), CopyError> {
        Err(CopyError::NotStreaming)
    }

    pub(crate) fn begin_at(&mut self, _: Start) {}

    pub(crate) async fn park(&mut self) -> Result<(), CopyError> {
        Err(CopyError::NotStreaming)
    }

    /// No move of the simulation asks for it.
    pub(crate) fn verify(
        &self,
        _: Compare,
        _: &watch::Sender<Checked>,
    ) -> impl Future<Output = Result<Checked, CopyError>> + Send + use<> {
        std::future::ready(Err(CopyError::NotStreaming))
    }

    pub(crate) fn progress(&self) -> Progress {
        self.shared.progress.borrow().clone()
    }

    pub(crate) async fn until_streaming(&mut self) -> Result<(), CopyError> {
        let mut news = self.shared.progress.subscribe();
        loop {
            let now = news.borrow_and_update().clone();
            match now.phase {
                Phase::Failed | Phase::Stopped => return Err(now.last_error.unwrap_or(CopyError::Stopped)),
                Phase::Streaming => {
                    sleep(STEADY).await;
                    if news.borrow().phase == Phase::Streaming {
                        return Ok(());
                    }
                }
                Phase::Attaching | Phase::Attached | Phase::Snapshot | Phase::Restarting => {
                    drop(news.changed().await)
                }
            }
        }
    }

    pub(crate) async fn unpark(&mut self, horizon: Duration) -> Result<Unparked, CopyError> {
        let mut rng = self.shared.world.rng("unpark", 0);
        self.until_applied(0).await?;
        sleep(some(&mut rng, 20)).await;
        Ok(Unparked {
            safe_for: horizon,
            debts: 0,
            took: Duration::ZERO,
        })
    }

    pub(crate) async fn drain_to(&mut self, offset: u64) -> Result<Drained, CopyError> {
        self.until_applied(offset).await?;
        Ok(Drained {
            applied_offset: offset,
            paid: Arc::default(),
            moment_ms: None,
            took: Duration::ZERO,
        })
    }

    pub(crate) async fn thaw(&mut self) -> Result<(), CopyError> {
        self.until_applied(0).await
    }

    async fn until_applied(&self, offset: u64) -> Result<(), CopyError> {
        let mut news = self.shared.progress.subscribe();
        loop {
            let now = news.borrow_and_update().clone();
            if now.phase != Phase::Streaming {
                return Err(now.last_error.unwrap_or(CopyError::NotStreaming));
            }
            if now.applied_offset >= offset {
                return Ok(());
            }
            drop(news.changed().await);
        }
    }

    pub(crate) async fn counts(&self) -> Result<Vec<DbCounts>, CopyError> {
        let Shared { world, plan, .. } = &*self.shared;
        let (who, source, target) = (self.shared.who, self.shared.source, self.shared.target);
        let mut rng = world.rng("counts", who);
        let both = async {
            round_trip(world, who, source, &mut rng).await;
            round_trip(world, who, target, &mut rng).await;
        };
        if timeout(PATIENCE, both).await.is_err()
            || world.nodes[source].is_down()
            || world.nodes[target].is_down()
        {
            return Err(CopyError::Target("no answer".to_owned()));
        }
        let counts = plan.dbs.iter().map(|&(source_db, target_db)| DbCounts {
            source_db,
            target_db,
            source_keys: world.nodes[source].keys(source_db.0),
            source_expires: 0,
            target_keys: world.nodes[target].keys(target_db.0),
            target_expires: 0,
        });
        Ok(counts.collect())
    }

    pub(crate) async fn stop(mut self) -> Result<(), CopyError> {
        self.tasks.shutdown().await;
        self.shared.progress.send_modify(|now| now.phase = Phase::Stopped);
        self.shared.end_writer().await
    }
}

impl Shared {
    /// What is on its way to the target is not run any more.
    async fn end_writer(&self) -> Result<(), CopyError> {
        let line = self.line.lock().unwrap().clone();
        let Some(line) = line.filter(|_| self.in_flight.load(Relaxed) > 0) else {
            return Ok(());
        };
        let mut rng = self.world.rng("kill", self.target);
        let asked = timeout(
            PATIENCE,
            self.world
                .cross(Some(self.who), Peer::Node(self.target), &mut rng),
        )
        .await;
        if asked.is_err() || self.world.nodes[self.target].is_down() {
            return Err(CopyError::Target("no answer".to_owned()));
        }
        line.node.kill(line.conn);
        self.in_flight.store(0, Relaxed);
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(line) = self.line.get_mut().unwrap() {
            line.hang_up();
        }
    }
}

async fn supervise(shared: Arc<Shared>) {
    let mut rng = shared.world.rng("copy", shared.source);
    let mut restarts = 0;
    loop {
        let begun = async {
            if restarts > 0 {
                shared.end_writer().await?;
                let line = login(&shared, &mut rng).await?;
                let dbs = shared.plan.dbs.clone();
                for (_, db) in dbs {
                    ask(&shared, &line, &[select(db), vec![b"FLUSHDB".to_vec()]]).await?;
                }
            }
            Box::pin(attempt(&shared, &mut rng)).await
        };
        let Err(error) = begun.await else { return };
        shared.world.tell(|| format!("copy by p{}: {error}", shared.who));
        let is_over = restarts >= RESTARTS_MAX || matches!(error, CopyError::TargetNotEmpty(_));
        restarts += 1;
        shared.note(|now| {
            now.phase = if is_over { Phase::Failed } else { Phase::Restarting };
            now.restarts = restarts;
            now.last_error = Some(error);
        });
        if is_over {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A connection as the user that writes the copy.
async fn login(shared: &Shared, rng: &mut Rng) -> Result<Arc<Line>, CopyError> {
    let gone = || CopyError::Target("no connection".to_owned());
    let connected = round_trip(&shared.world, shared.who, shared.target, rng);
    timeout(PATIENCE, connected).await.map_err(|_| gone())?;
    let line = Line::open(&shared.world, shared.who, shared.target).ok_or_else(gone)?;
    let credentials = &shared.plan.target.credentials;
    let user = credentials.username.clone().unwrap_or_default();
    let password = credentials.password.as_ref().map_or("", Secret::reveal);
    let auth = vec![b"AUTH".to_vec(), user.into_bytes(), password.as_bytes().to_vec()];
    ask(shared, &line, &[auth]).await?;
    *shared.line.lock().unwrap() = Some(Arc::clone(&line));
    Ok(line)
}

/// Sends all, and reads as many replies, none of which may be an error.
async fn ask(shared: &Shared, line: &Line, commands: &[Words]) -> Result<(), CopyError> {
    let mut due = VecDeque::from(commands.to_vec());
    let mut awaited = 0;
    while awaited > 0 || !due.is_empty() {
        while awaited < WINDOW
            && let Some(words) = due.pop_front()
        {
            line.send(words);
            awaited += 1;
            shared.in_flight.fetch_add(1, Relaxed);
        }
        let reply = line.recv().await;
        let reply = reply.ok_or_else(|| CopyError::Target("the connection has ended".to_owned()))?;
        awaited -= 1;
        shared.in_flight.fetch_sub(1, Relaxed);
        if let Value::Error(error) = reply {
            return Err(CopyError::TargetRefused(error));
        }
    }
    Ok(())
}

fn select(db: DbIndex) -> Words {
    vec![b"SELECT".to_vec(), db.to_string().into_bytes()]
}

async fn attempt(shared: &Shared, rng: &mut Rng) -> Result<(), CopyError> {
    shared.note(|now| now.phase = Phase::Attaching);
    let (world, plan) = (&shared.world, &shared.plan);
    let source = &world.nodes[shared.source];
    round_trip(world, shared.who, shared.source, rng).await;
    let line = login(shared, rng).await?;
    if source.is_down() {
        return Err(CopyError::Source("no connection".to_owned()));
    }
    let taken = plan
        .dbs
        .iter()
        .find(|(_, db)| world.nodes[shared.target].keys(db.0) > 0);
    if let Some((_, db)) = taken {
        return Err(CopyError::TargetNotEmpty(*db));
    }
    // The snapshot.
    let (run, from) = source.position();
    let (replid, run_id) = (source.replid(), source.run_id());
    let all: Vec<_> = plan
        .dbs
        .iter()
        .map(|(from, to)| (*to, source.db(from.0)))
        .collect();
    shared.note(|now| {
        now.phase = Phase::Snapshot;
        now.replid = replid;
        now.run_id = run_id;
        (now.stream_offset, now.applied_offset, now.source_offset) = (from, from, from);
    });
    sleep(some(rng, 50)).await;
    for (db, keys) in all {
        let mut commands = vec![select(db)];
        commands.extend(keys.into_iter().filter_map(restore));
        for part in commands.chunks(16) {
            ask(shared, &line, part).await?;
            sleep(some(rng, 4)).await;
        }
        shared.note(|now| now.keys += 1);
    }
    shared.note(|now| now.phase = Phase::Streaming);
    follow(shared, &line, (run, from), rng).await
}

/// Applies what the source writes, as long as it is the same process.
async fn follow(
    shared: &Shared,
    line: &Line,
    (run, from): (u64, u64),
    rng: &mut Rng,
) -> Result<(), CopyError> {
    let (world, plan) = (&shared.world, &shared.plan);
    let source = &world.nodes[shared.source];
    let (mut at, mut selected) = (from, None);
    loop {
        let wrote = source.wrote.notified();
        let Some(writes) = source.since(run, at) else {
            // A connection that is half open tells nothing; another one is asked now and then.
            if rng.bool() {
                sleep(some(rng, 4_000)).await;
            }
            return Err(CopyError::SourceChanged("it is another process"));
        };
        if writes.is_empty() {
            wrote.await;
            continue;
        }
        // On its way to us.
        world
            .cross(Some(shared.who), Peer::Node(shared.source), rng)
            .await;
        let last = writes.last().map_or(at, |(end, ..)| *end);
        shared.note(|now| (now.stream_offset, now.source_offset) = (last, last));
        let mut commands = Vec::new();
        for (_, db, words) in writes {
            let Some((_, to)) = plan.dbs.iter().find(|(of, _)| of.0 == db) else {
                continue;
            };
            if selected != Some(db) {
                selected = Some(db);
                commands.push(select(*to));
            }
            commands.push(words);
        }
        ask(shared, line, &commands).await?;
        at = last;
        shared.note(|now| now.applied_offset = last);
    }
}

/// A key as a command that makes it.
fn restore((key, data): (Vec<u8>, Data)) -> Option<Words> {
    match data {
        Data::List(list) => Some([vec![b"RPUSH".to_vec(), key], list].concat()),
        Data::Text(text) => Some(vec![b"SET".to_vec(), key, text]),
        Data::Hash(_) => None,
    }
}
