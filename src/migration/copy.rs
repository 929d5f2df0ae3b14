//! The handle of a running copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::error::CopyError;
use super::journal::{Journal, Noted};
use super::keeper::{Drained, Order, Unparked};
use super::plan::CopyPlan;
use super::probe::{Keyspace, connect, keyspace};
use super::run::{Begin, Start, end_writers, ensure_history, supervise};
use super::state::{Phase, Progress, Shared};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;

/// A copy counts as following the stream when it was no further behind than this …
pub(super) const LAG_BYTES: u64 = 64 * 1024;
/// … in bytes and in milliseconds …
const LAG_MS: u64 = 20;
/// … for so long.
const STEADY: Duration = Duration::from_secs(1);
/// On a busy machine a second may never pass without an answer that comes late. One that was close in bytes for so long …
const NEAR_LONG: Duration = Duration::from_secs(5);
/// … follows when it was close in time as well for so long. Whether the pause is short enough is seen in the cutover.
const STEADY_LEAST: Duration = Duration::from_millis(100);
/// Between two looks, if nothing changes.
const LOOK: Duration = Duration::from_millis(20);

/// A running copy. It ends with its handle.
#[derive(Debug)]
pub struct Copy {
    plan: Arc<CopyPlan>,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    /// Of one that waits to be told where it begins.
    start: Option<oneshot::Sender<Start>>,
    /// Since when it is close in bytes.
    near_since: Option<Instant>,
    tasks: JoinSet<()>,
    /// Connections for [`Copy::counts`], kept since it is asked within a cutover.
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    source: Option<NodeClient>,
    target: Option<NodeClient>,
}

/// How many keys there are on both sides of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DbCounts {
    /// On the source.
    pub source_db: DbIndex,
    /// On the target.
    pub target_db: DbIndex,
    /// Keys on the source.
    pub source_keys: u64,
    /// Those of them that expire.
    pub source_expires: u64,
    /// Hashes among them with fields that expire.
    pub source_field_expires: u64,
    /// Keys on the target.
    pub target_keys: u64,
    /// Those of them that expire.
    pub target_expires: u64,
    /// Hashes among them with fields that expire.
    pub target_field_expires: u64,
}

impl DbCounts {
    /// Keys without an expiry, on the source and on the target.
    #[must_use]
    pub const fn lasting(&self) -> (u64, u64) {
        (
            self.source_keys.saturating_sub(self.source_expires),
            self.target_keys.saturating_sub(self.target_expires),
        )
    }

    /// Whether both sides can have the same lasting keys. A hash of which all fields have expired is such a key until its server
    /// comes by and drops it, and neither waits for the other: whoever has it yet counts it among those with fields that expire.
    #[must_use]
    pub const fn agree(&self) -> bool {
        let (source, target) = self.lasting();
        source.saturating_sub(target) <= self.source_field_expires
            && target.saturating_sub(source) <= self.target_field_expires
    }
}

impl Copy {
    /// Copies the databases, which must be empty on the target, and then follows the source. Called within a runtime.
    #[must_use]
    pub fn start(plan: CopyPlan) -> Self {
        Self::begin(plan, Begin::Empty)
    }

    /// Has the source keep its history, without which no stream can be attached.
    ///
    /// # Errors
    /// It cannot be asked, or does not.
    pub async fn ensure_history(plan: &CopyPlan) -> Result<(), CopyError> {
        ensure_history(&plan.source, plan.limits.silence).await
    }

    /// Receives the stream from now on and keeps it, until [`Copy::begin_at`] says from where on it is applied.
    #[must_use]
    pub fn attach(plan: CopyPlan, journal: Journal) -> Self {
        let (start, told) = oneshot::channel();
        let told = Some(told);
        Self {
            start: Some(start),
            ..Self::begin(plan, Begin::Attach { journal, told })
        }
    }

    /// Goes on where a stream that was begun with [`Copy::attach`] has ended. It does not begin again by itself.
    #[must_use]
    pub fn resume(plan: CopyPlan, journal: Journal, noted: Noted) -> Self {
        Self::begin(plan, Begin::Resume { journal, noted })
    }

    /// To be told once to a copy that was attached.
    pub fn begin_at(&mut self, start: Start) {
        if let Some(told) = self.start.take() {
            // A copy that has ended says so itself.
            let _ = told.send(start);
        }
    }

    fn begin(plan: CopyPlan, begin: Begin) -> Self {
        let plan = Arc::new(plan);
        let shared = Arc::new(Shared::new(plan.limits.clone()));
        let (orders, taken) = mpsc::channel(4);
        let mut tasks = JoinSet::new();
        tasks.spawn(supervise(Arc::clone(&plan), Arc::clone(&shared), begin, taken));
        Self {
            plan,
            shared,
            orders,
            start: None,
            near_since: None,
            tasks,
            clients: Mutex::default(),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.progress()
    }

    /// Waits until the stream is received and kept (and, with a snapshot, until that is written).
    ///
    /// # Errors
    /// It has given up.
    pub async fn until_attached(&mut self) -> Result<(), CopyError> {
        let mut progress = self.shared.subscribe();
        let reached = progress
            .wait_for(|now| {
                matches!(
                    now.phase,
                    Phase::Attached | Phase::Streaming | Phase::Failed | Phase::Stopped
                )
            })
            .await;
        match reached.map(|now| (now.phase, now.last_error.clone())) {
            Ok((Phase::Attached | Phase::Streaming, _)) => Ok(()),
            Ok((_, error)) => Err(error.unwrap_or(CopyError::Stopped)),
            Err(_) => Err(CopyError::Stopped),
        }
    }

    /// Waits until the snapshot is written, and the target has been close behind the source for a second.
    ///
    /// # Errors
    /// It has given up.
    pub async fn until_streaming(&mut self) -> Result<(), CopyError> {
        let mut progress = self.shared.subscribe();
        let mut steady: Option<Instant> = None;
        loop {
            self.until_attached().await?;
            progress.mark_unchanged();
            let now = self.progress();
            let is_near = now.phase == Phase::Streaming
                && now.lag_bytes() <= LAG_BYTES
                && now.source_offset.saturating_sub(now.applied_offset) <= LAG_BYTES;
            let near_since = is_near.then(|| self.near_since.unwrap_or_else(Instant::now));
            self.near_since = near_since;
            let is_long = near_since.is_some_and(|since| since.elapsed() >= NEAR_LONG);
            let enough = if is_long { STEADY_LEAST } else { STEADY };
            if !is_near || now.lag_ms > LAG_MS {
                steady = None;
            } else if steady.get_or_insert_with(Instant::now).elapsed() >= enough {
                return Ok(());
            }
            // Changes, or time.
            let _ = timeout(LOOK, progress.changed()).await;
        }
    }

    /// Makes the expiries on the target real, all but those of the next `horizon`. The source must be frozen within
    /// [`Unparked::safe_for`].
    ///
    /// # Errors
    /// It does not follow the stream, or has begun again meanwhile.
    pub async fn unpark(&mut self, horizon: Duration) -> Result<Unparked, CopyError> {
        self.order(|reply| Order::Unpark { horizon, reply }).await
    }

    /// The source is frozen at this offset: waits until everything up to there is done on the target, then makes the rest
    /// of the expiries real.
    ///
    /// # Errors
    /// The target is not what the source was. The source must be thawed.
    pub async fn drain_to(&mut self, offset: u64) -> Result<Drained, CopyError> {
        self.order(|reply| Order::Drain { offset, reply }).await
    }

    /// Parks all expiries on the target again, after [`Copy::unpark`].
    ///
    /// # Errors
    /// It was too late for that: keys may have expired.
    pub async fn park(&mut self) -> Result<(), CopyError> {
        self.order(|reply| Order::Park { reply }).await
    }

    /// To be called after [`Copy::drain_to`], before the source takes writes again instead of the target.
    ///
    /// # Errors
    /// The copy has begun again: the source may be thawed all the same.
    pub async fn thaw(&mut self) -> Result<(), CopyError> {
        self.order(|reply| Order::Thaw { reply }).await
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, CopyError>>) -> Order,
    ) -> Result<T, CopyError> {
        let (reply, replied) = oneshot::channel();
        let mut progress = self.shared.subscribe();
        if progress.borrow_and_update().phase != Phase::Streaming {
            return Err(self.why());
        }
        let asked = self.orders.try_send(order(reply));
        if asked.is_err() {
            return Err(self.why());
        }
        tokio::select! {
            biased;
            Ok(replied) = replied => replied,
            // The attempt has ended with the order: why, is told a moment later.
            _ = progress.wait_for(|now| now.phase != Phase::Streaming) => Err(self.why()),
        }
    }

    /// What has become of it.
    fn why(&self) -> CopyError {
        self.progress().last_error.unwrap_or(CopyError::NotStreaming)
    }

    /// How many keys there are on both sides, as the nodes say. They are asked at the same time.
    ///
    /// # Errors
    /// A node cannot be asked.
    pub async fn counts(&self) -> Result<Vec<DbCounts>, CopyError> {
        let mut clients = self.clients.lock().await;
        let Clients { source, target } = &mut *clients;
        let silence = self.plan.limits.silence;
        let (of_source, of_target) = tokio::join!(
            count(source, || connect(&self.plan.source, silence)),
            count(target, || connect(&self.plan.target, silence))
        );
        let of_source = of_source.map_err(CopyError::of_source)?;
        let of_target = of_target.map_err(CopyError::of_target)?;
        let of = |all: &[Keyspace], db: DbIndex| {
            let found = all.iter().find(|found| found.db == db);
            found.map_or((0, 0, 0), |found| {
                (found.keys, found.expires, found.field_expires)
            })
        };
        let counts = self.plan.dbs.iter().map(|(source_db, target_db)| {
            let (source_keys, source_expires, source_field_expires) = of(&of_source, *source_db);
            let (target_keys, target_expires, target_field_expires) = of(&of_target, *target_db);
            DbCounts {
                source_db: *source_db,
                target_db: *target_db,
                source_keys,
                source_expires,
                source_field_expires,
                target_keys,
                target_expires,
                target_field_expires,
            }
        });
        Ok(counts.collect())
    }

    /// What it goes by, and what its tasks share.
    pub(super) const fn parts(&self) -> (&Arc<CopyPlan>, &Arc<Shared>) {
        (&self.plan, &self.shared)
    }

    /// Ends it. When this returns without an error, nothing more is written to the target.
    ///
    /// # Errors
    /// The target has requests that it has not answered, and could not be told to forget them.
    pub async fn stop(mut self) -> Result<(), CopyError> {
        self.tasks.shutdown().await;
        self.shared.note(|progress| progress.phase = Phase::Stopped);
        if self.shared.in_flight.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        end_writers(&self.plan, &self.shared).await
    }
}

/// Counts over a connection that is kept, or made anew once.
async fn count<F: Future<Output = Result<NodeClient, AskError>>>(
    kept: &mut Option<NodeClient>,
    connect: impl Fn() -> F,
) -> Result<Vec<Keyspace>, AskError> {
    if let Some(mut client) = kept.take()
        && let Ok(counted) = keyspace(&mut client).await
    {
        *kept = Some(client);
        return Ok(counted);
    }
    let mut client = connect().await?;
    let counted = keyspace(&mut client).await?;
    *kept = Some(client);
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_whose_fields_have_all_expired_may_be_on_one_side_only_and_no_other_key() {
        let counts = |source: [u64; 3], target: [u64; 3]| DbCounts {
            source_db: DbIndex(1),
            target_db: DbIndex(1),
            source_keys: source[0],
            source_expires: source[1],
            source_field_expires: source[2],
            target_keys: target[0],
            target_expires: target[1],
            target_field_expires: target[2],
        };
        let agree = |source, target| counts(source, target).agree();
        assert!(agree([10, 3, 0], [9, 2, 0]), "what expires is not counted");
        assert!(!agree([10, 0, 0], [9, 0, 0]) && !agree([9, 0, 0], [10, 0, 0]));
        assert!(agree([10, 0, 2], [8, 0, 0]), "the target has dropped both");
        assert!(!agree([10, 0, 2], [7, 0, 0]), "one of them is no such hash");
        assert!(agree([8, 0, 0], [10, 0, 2]), "the source has dropped both");
        assert!(!agree([7, 0, 0], [10, 0, 2]));
        assert!(
            !agree([10, 0, 0], [8, 0, 5]),
            "what the source has must be such a hash there"
        );
        assert_eq!(
            counts([1, 2, 0], [0, 0, 0]).lasting(),
            (0, 0),
            "the two are not read at once"
        );
    }
}
