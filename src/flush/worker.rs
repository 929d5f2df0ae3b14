//! One worker: its two connections, and the round over all counters.
//!
//! ```text
//!  ┌─▶ Postgres there? ─▶ for each counter: TAKE ─▶ cycle.rs: apply, COMMIT, ACK ─┐     something was due: at once
//!  └──────────────── wait, unless told to stop ◀────────────────────────────────────┘     nothing was: a quarter of `every`
//! ```
//!
//! Nothing is taken while Postgres is away, so that batches do not grow old in hands that can do nothing with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::apply::statement_limit;
use super::database::{Database, Failure};
use super::fault::doubled;
use super::figures::{Figures, Side};
use super::settings::Settings;
use super::source::{NoAnswer, Source};

/// Attempts to go on after failures in a row, before a run with an end ends without.
const TRIES_ONCE: u32 = 6;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a turn got nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// A side cannot be reached: nothing would work now.
    Side,
    /// This counter's batches could not be applied, or not acknowledged.
    Counter(Duration),
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it was told to, or with nothing left that is due.
    Done,
    /// Something that was due is left.
    Left,
    /// A side could not be reached.
    Unreachable(Side),
}

pub(super) struct Worker {
    pub(super) settings: Arc<Settings>,
    pub(super) figures: Arc<Figures>,
    pub(super) source: Source,
    pub(super) database: Option<Database>,
    stop: watch::Receiver<bool>,
    /// Drain what is due, and end.
    once: bool,
    redis_is_well: bool,
    /// When a counter's turn comes again after a failure.
    resting: Vec<Option<Instant>>,
    last_side: Side,
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(
        settings: Arc<Settings>,
        figures: Arc<Figures>,
        stop: watch::Receiver<bool>,
        once: bool,
    ) -> Self {
        Self {
            source: Source::new(settings.redis.clone()),
            resting: vec![None; settings.counters.len()],
            settings,
            figures,
            database: None,
            stop,
            once,
            redis_is_well: false,
            last_side: Side::Redis,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Works until it is told to stop, or, with an end, until nothing is due.
    pub(super) async fn run(mut self) -> End {
        let (mut failures, mut left) = (0, false);
        let end = loop {
            if self.is_stopped() {
                break End::Done;
            }
            match self.round(&mut left).await {
                Ok(true) => failures = 0,
                Ok(false) if self.once => break if left { End::Left } else { End::Done },
                Ok(false) => {
                    failures = 0;
                    let idle = (self.settings.every / 4).clamp(PAUSE_FIRST, Duration::from_secs(1));
                    self.pause(idle.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                }
                Err(()) => {
                    failures += 1;
                    if self.once && failures >= TRIES_ONCE {
                        break End::Unreachable(self.last_side);
                    }
                    self.pause(doubled(PAUSE_FIRST, PAUSE_MAX, failures, fastrand::f64()))
                        .await;
                }
            }
        };
        if self.redis_is_well {
            self.figures.connected(Side::Redis, false);
        }
        self.lose_database();
        end
    }

    /// A turn of each counter; whether anything was due. An error: a side is away.
    async fn round(&mut self, left: &mut bool) -> Result<bool, ()> {
        let mut worked = false;
        for number in 0..self.settings.counters.len() {
            if self.is_stopped() {
                break;
            }
            if self.resting[number].is_some_and(|until| self.once || Instant::now() < until) {
                continue;
            }
            self.resting[number] = None;
            match Box::pin(self.turn(number)).await {
                Ok(found) => worked |= found,
                Err(Trouble::Side) => return Err(()),
                Err(Trouble::Counter(rest)) => {
                    *left = true;
                    self.resting[number] = Some(Instant::now() + rest);
                }
            }
        }
        Ok(worked)
    }

    /// Takes what is due of a counter and flushes it; whether there was something.
    async fn turn(&mut self, number: usize) -> Result<bool, Trouble> {
        self.ensure_database().await?;
        let settings = Arc::clone(&self.settings);
        let counter = &settings.counters[number];
        let taken = self
            .source
            .take(&counter.name, settings.count, settings.lease, settings.every)
            .await;
        let taken = self.heard(taken)?;
        if taken.is_empty() {
            self.figures.success(&counter.name);
            return Ok(false);
        }
        self.figures.taken(&counter.name, &taken);
        self.flush(counter, taken).await.map(|()| true)
    }

    /// Notes how preshard answered. What would fail again the same way is the operator's business, and tried again all the same.
    pub(super) fn heard<T>(&mut self, answer: Result<T, NoAnswer>) -> Result<T, Trouble> {
        let well = !matches!(answer, Err(NoAnswer::Lost(_) | NoAnswer::Refused(_)));
        if well != self.redis_is_well {
            self.figures.connected(Side::Redis, well);
            self.redis_is_well = well;
        }
        answer.map_err(|error| {
            self.figures.error(Side::Redis, error.word());
            self.last_side = Side::Redis;
            match &error {
                NoAnswer::Refused(_) => tracing::error!(event = "preshard_refused", %error),
                NoAnswer::Lost(_) => tracing::warn!(event = "preshard_lost", %error),
                NoAnswer::Later(_) => tracing::info!(event = "preshard_later", %error),
            }
            Trouble::Side
        })
    }

    /// Connects to Postgres if there is no connection.
    async fn ensure_database(&mut self) -> Result<(), Trouble> {
        if self.database.as_ref().is_some_and(Database::is_closed) {
            self.lose_database();
        }
        if self.database.is_some() {
            return Ok(());
        }
        let connecting = Database::connect(&self.settings.postgres, answer_limit(self.settings.lease));
        let mut stop = self.stop.clone();
        let connected = tokio::select! {
            connected = connecting => connected,
            _ = stop.wait_for(|stop| *stop) => return Err(Trouble::Side),
        };
        match connected {
            Ok(database) => {
                self.database = Some(database);
                self.figures.connected(Side::Postgres, true);
                Ok(())
            }
            Err(error) => {
                self.last_side = Side::Postgres;
                self.count_failure(&error);
                tracing::warn!(event = "postgres_unreachable", %error);
                Err(Trouble::Side)
            }
        }
    }

    pub(super) fn lose_database(&mut self) {
        if self.database.take().is_some() {
            self.figures.connected(Side::Postgres, false);
        }
    }

    pub(super) fn count_failure(&self, failure: &Failure) {
        let kind = match failure {
            Failure::Refused { fault, .. } => fault.word(),
            Failure::Lost(_) => "lost",
            Failure::Unknown(_) => "unknown",
        };
        self.figures.error(Side::Postgres, kind);
    }

    /// Waits, unless it is told to stop.
    async fn pause(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Time for an answer of Postgres: it ends a statement itself before that, if it can.
pub(super) fn answer_limit(lease: Duration) -> Duration {
    let statement = u64::try_from(statement_limit(lease.as_millis())).unwrap_or(u64::MAX);
    Duration::from_millis(statement) + Duration::from_secs(2)
}
