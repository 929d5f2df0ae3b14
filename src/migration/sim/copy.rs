//! A copy as a move and its way back need it: what the target has runs behind what the source has, at a pace of chance.
//!
//! The real one has its own tests with real servers; here only its promises are kept ([`super::stream`]), and its dangers: writes that
//! are on their way when it is stopped, or when its leader is not one any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::play::is_calm;
use super::stream::{Begin, supervise};
use super::wire::{Line, round_trip, some};
use super::world::{Peer, World};
use crate::migration::{
    Checked, Compare, CopyError, CopyPlan, DbCounts, Drained, Journal, Noted, Phase, Progress, Start,
    Unparked,
};
use crate::topology::Address;

/// Close behind for so long.
const STEADY: Duration = Duration::from_millis(60);
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) struct Copy {
    shared: Arc<Shared>,
    /// Of one that waits to be told where it begins.
    start: Option<oneshot::Sender<Start>>,
    tasks: JoinSet<()>,
}

pub(super) struct Shared {
    pub(super) world: Arc<World>,
    pub(super) plan: CopyPlan,
    pub(super) who: usize,
    pub(super) source: usize,
    pub(super) target: usize,
    progress: watch::Sender<Progress>,
    pub(super) in_flight: AtomicUsize,
    /// The connection that writes.
    pub(super) line: std::sync::Mutex<Option<Arc<Line>>>,
}

impl Copy {
    pub(crate) fn start(plan: CopyPlan) -> Self {
        Self::begin(plan, Begin::Snapshot)
    }

    fn begin(plan: CopyPlan, begin: Begin) -> Self {
        let world = World::current();
        let shared = Arc::new(Shared {
            who: who_of(&plan),
            source: index_of(&world, &plan.source.address),
            target: index_of(&world, &plan.target.address),
            progress: watch::Sender::default(),
            in_flight: AtomicUsize::new(0),
            line: std::sync::Mutex::default(),
            world,
            plan,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(Arc::clone(&shared), begin));
        Self {
            shared,
            start: None,
            tasks,
        }
    }

    /// Every node keeps its history, if it can be asked.
    pub(crate) async fn ensure_history(plan: &CopyPlan) -> Result<(), CopyError> {
        let world = World::current();
        let (who, node) = (who_of(plan), index_of(&world, &plan.source.address));
        let mut rng = world.rng("history", who);
        let asked = timeout(PATIENCE, round_trip(&world, who, node, &mut rng)).await;
        if asked.is_err() || world.nodes[node].is_down() {
            return Err(CopyError::Source("no answer".to_owned()));
        }
        Ok(())
    }

    pub(crate) fn attach(plan: CopyPlan, journal: Journal) -> Self {
        let (start, told) = oneshot::channel();
        Self {
            start: Some(start),
            ..Self::begin(plan, Begin::Attach { journal, told })
        }
    }

    pub(crate) fn resume(plan: CopyPlan, journal: Journal, noted: Noted) -> Self {
        Self::begin(plan, Begin::Resume { journal, noted })
    }

    pub(crate) async fn until_attached(&mut self) -> Result<(), CopyError> {
        let mut news = self.shared.progress.subscribe();
        loop {
            let now = news.borrow_and_update().clone();
            match now.phase {
                Phase::Failed | Phase::Stopped => return Err(now.last_error.unwrap_or(CopyError::Stopped)),
                Phase::Attached | Phase::Streaming => return Ok(()),
                Phase::Attaching | Phase::Snapshot | Phase::Restarting => drop(news.changed().await),
            }
        }
    }

    pub(crate) fn begin_at(&mut self, start: Start) {
        if let Some(told) = self.start.take() {
            // A copy that has ended says so itself.
            let _ = told.send(start);
        }
    }

    pub(crate) async fn park(&mut self) -> Result<(), CopyError> {
        self.until_applied(0).await
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
        let Shared { world, who, .. } = &*self.shared;
        // Now and then it takes so long that keys could expire.
        let is_late = !is_calm(world.seed) && world.rng("drain", *who).u8(0..40) == 0;
        Ok(Drained {
            applied_offset: offset,
            paid: Arc::default(),
            moment_ms: (!is_late).then_some(i64::MAX),
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
            source_field_expires: 0,
            target_keys: world.nodes[target].keys(target_db.0),
            target_expires: 0,
            target_field_expires: 0,
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
    pub(super) async fn end_writer(&self) -> Result<(), CopyError> {
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

    pub(super) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }
}

/// Which proxy copies.
fn who_of(plan: &CopyPlan) -> usize {
    let user = plan.source.credentials.username.as_deref().unwrap();
    user.strip_prefix("admin-").unwrap().parse().unwrap()
}

fn index_of(world: &World, address: &Address) -> usize {
    let mut nodes = world.nodes.iter();
    nodes.position(|node| node.address == *address).unwrap()
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(line) = self.line.get_mut().unwrap() {
            line.hang_up();
        }
    }
}
