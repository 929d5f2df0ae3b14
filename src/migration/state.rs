//! What the tasks of one copy share, and what others are told of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::error::CopyError;
use super::plan::CopyLimits;
use super::steps::Gate;
use crate::ids::DbIndex;
use crate::rdb::{Debt, Expiries};

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It looks at both nodes and connects.
    #[default]
    Attaching,
    /// The snapshot is written to the target, and the stream waits; or keys are read beside the stream.
    Snapshot,
    /// The stream is received and kept, until it is told from where on it is applied, and the target is ready for it.
    Attached,
    /// It follows the stream.
    Streaming,
    /// The target's databases are cleared, before it begins again.
    Restarting,
    /// It has given up.
    Failed,
    /// It was stopped.
    Stopped,
}

/// What is known of a copy.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// How far it is.
    pub phase: Phase,
    /// Keys that were written so far, beside the stream.
    pub keys: u64,
    /// Bytes of the snapshot so far, those of other databases included; without one, of values.
    pub bytes: u64,
    /// All bytes of the snapshot, if the source has said.
    pub bytes_total: Option<u64>,
    /// The source's history.
    pub replid: String,
    /// The source's process.
    pub run_id: String,
    /// The target's.
    pub target_run_id: String,
    /// Up to where the stream was received.
    pub stream_offset: u64,
    /// Up to where the target has answered everything, without an error.
    pub applied_offset: u64,
    /// Where the source itself was when it was last asked.
    pub source_offset: u64,
    /// Since when, in milliseconds, the oldest write waits that is not applied.
    pub lag_ms: u64,
    /// The target's last PING.
    pub target_ping: Duration,
    /// Unanswered bytes that the target is trusted with at present.
    pub window: usize,
    /// Writes of the wanted databases behind the freeze, which there must not be.
    pub alarms: u64,
    /// How often it has begun again.
    pub restarts: u32,
    /// What ended the last attempt.
    pub last_error: Option<CopyError>,
}

impl Progress {
    /// Bytes that were received and are not applied.
    #[must_use]
    pub const fn lag_bytes(&self) -> u64 {
        self.stream_offset.saturating_sub(self.applied_offset)
    }
}

/// Keys whose expiry on the target is still a parked one.
#[derive(Debug, Default)]
pub(super) struct Debts {
    pub(super) keys: BTreeSet<(DbIndex, Vec<u8>)>,
    bytes: usize,
}

/// What a name costs beside its bytes.
const DEBT_OVERHEAD: usize = 64;

impl Debts {
    fn add(&mut self, db: DbIndex, key: Vec<u8>) {
        let bytes = key.len() + DEBT_OVERHEAD;
        if self.keys.insert((db, key)) {
            self.bytes += bytes;
        }
    }
}

/// A connection that writes to the target, by the target's number for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) run_id: String,
    pub(super) id: i64,
}

/// What the tasks of one copy share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: CopyLimits,
    progress: watch::Sender<Progress>,
    /// What becomes of expiries: the encoding of [`Expiries`] in [`Shared::expiries`].
    expiries: AtomicI64,
    /// The offset behind which nothing may be written; `u64::MAX`: none.
    frozen_at: AtomicU64,
    /// Unanswered bytes that the target is trusted with.
    pub(super) window: AtomicUsize,
    debts: Mutex<Debts>,
    writers: Mutex<Vec<Writer>>,
    /// When the oldest write came that is not applied; 0: there is none.
    pub(super) waiting_since_ms: AtomicI64,
    /// Bytes that were sent to the target and not answered; a script counts as one.
    pub(super) in_flight: AtomicUsize,
    /// How far the applier may go.
    pub(super) gate: Gate,
    /// The target's clock less the source's, as this attempt's expiries go by it.
    pub(super) skew_ms: AtomicI64,
}

impl Shared {
    pub(super) fn new(limits: CopyLimits) -> Self {
        Self {
            window: AtomicUsize::new(limits.window),
            limits,
            progress: watch::Sender::default(),
            expiries: AtomicI64::new(PARK),
            frozen_at: AtomicU64::new(u64::MAX),
            debts: Mutex::default(),
            writers: Mutex::default(),
            waiting_since_ms: AtomicI64::new(0),
            in_flight: AtomicUsize::new(0),
            gate: Gate::default(),
            skew_ms: AtomicI64::new(0),
        }
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    pub(super) fn progress(&self) -> Progress {
        let since = self.waiting_since_ms.load(Ordering::Relaxed);
        let lag = if since == 0 { 0 } else { now_ms() - since };
        Progress {
            lag_ms: lag.try_into().unwrap_or(0),
            ..self.progress.borrow().clone()
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub(super) fn received(&self) -> u64 {
        self.progress.borrow().stream_offset
    }

    /// Waits until the target has answered everything up to an offset.
    pub(super) async fn applied(&self, offset: u64) {
        let mut progress = self.progress.subscribe();
        // The sender is here, so it does not end.
        let _ = progress.wait_for(|now| now.applied_offset >= offset).await;
    }

    // === expiries ===

    pub(super) fn expiries(&self) -> Expiries {
        match self.expiries.load(Ordering::SeqCst) {
            PARK => Expiries::Park,
            PARKING => Expiries::Parking,
            moment => Expiries::ParkUntil(moment),
        }
    }

    /// From the next request of the stream on.
    pub(super) fn set_expiries(&self, expiries: Expiries) {
        let encoded = match expiries {
            Expiries::Park => PARK,
            Expiries::Parking => PARKING,
            // Nobody's clock is there.
            Expiries::Real => PARK + 1,
            Expiries::ParkUntil(moment) => moment,
        };
        self.expiries.store(encoded, Ordering::SeqCst);
    }

    pub(super) fn frozen_at(&self) -> u64 {
        self.frozen_at.load(Ordering::SeqCst)
    }

    pub(super) fn freeze(&self, offset: u64) {
        self.frozen_at.store(offset, Ordering::SeqCst);
    }

    pub(super) fn owe(&self, owed: Vec<Debt>) -> Result<(), CopyError> {
        let mut debts = self.debts();
        for debt in owed {
            debts.add(debt.db, debt.key);
        }
        let max = self.limits.debts_bytes;
        if debts.bytes > max {
            Err(CopyError::TooManyDebts(max))
        } else {
            Ok(())
        }
    }

    pub(super) fn debts(&self) -> MutexGuard<'_, Debts> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, which are forgotten.
    pub(super) fn take_debts(&self) -> Debts {
        std::mem::take(&mut *self.debts())
    }

    // === writers ===

    pub(super) fn add_writer(&self, writer: Writer) {
        self.writers().push(writer);
    }

    pub(super) fn writers(&self) -> MutexGuard<'_, Vec<Writer>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PARK: i64 = i64::MIN;
const PARKING: i64 = i64::MIN + 2;

/// Milliseconds since 1970 by this machine's clock.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
