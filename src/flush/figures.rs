//! What a flusher measures: few numbers, written by its workers, read by `/metrics`.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::batch::Batch;
use super::settings::Settings;

/// All families of a flusher: name, labels, meaning.
const COUNTERS: [(&str, &[&str], &str); 7] = [
    (
        "preshard_flush_batches_total",
        &["counter", "outcome"],
        "Batches by what became of them: applied, duplicate (had been applied before), parked, superseded (somebody else has gone on), failed (put back).",
    ),
    (
        "preshard_flush_members_total",
        &["counter"],
        "Rows of delta that the statement took.",
    ),
    (
        "preshard_flush_rows_total",
        &["counter"],
        "Rows that the statement changed. Fewer than members: the table lacks some of them.",
    ),
    (
        "preshard_flush_dead_letters_total",
        &["counter"],
        "Entries that went to preshard_dead.",
    ),
    (
        "preshard_flush_chain_total",
        &["counter", "kind"],
        "Batches that did not follow the one recorded last: reset, rolled_back, unrecorded, past.",
    ),
    (
        "preshard_flush_redeliveries_total",
        &["counter"],
        "Batches that had been handed out before.",
    ),
    (
        "preshard_flush_errors_total",
        &["side", "kind"],
        "Failures of a side: of redis lost, later, refused; of postgres lost, unknown, data, contention, unavailable, statement.",
    ),
];
const GAUGES: [(&str, &[&str], &str); 2] = [
    (
        "preshard_flush_connected",
        &["side"],
        "Workers whose connection to a side was in order when they last used it.",
    ),
    (
        "preshard_flush_last_success_seconds",
        &["counter"],
        "Unix time at which a worker last found nothing due, or had a batch acknowledged.",
    ),
];
const TRANSACTION: (&str, &str) = (
    "preshard_flush_transaction_seconds",
    "Time of a transaction, from BEGIN to the answer to COMMIT.",
);
const WORKERS: (&str, &str) = ("preshard_flush_workers", "Workers of this flusher.");

/// The cells of all families.
pub(super) struct Figures {
    registry: Registry,
    counters: Vec<IntCounterVec>,
    connected: IntGaugeVec,
    success: GaugeVec,
    pub(super) transaction: Histogram,
}

/// The two sides of a flusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Redis,
    Postgres,
}

impl Side {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

// === impl Figures ===

impl Figures {
    /// All families, with a zero for everything that may be asked an alarm about.
    pub(super) fn new(settings: &Settings) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let mut counters = Vec::new();
        for (name, labels, help) in COUNTERS {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            counters.push(counter);
        }
        let [connected, success] = GAUGES;
        let connected = IntGaugeVec::new(Opts::new(connected.0, connected.2), connected.1)?;
        registry.register(Box::new(connected.clone()))?;
        let success = GaugeVec::new(Opts::new(success.0, success.2), success.1)?;
        registry.register(Box::new(success.clone()))?;
        let buckets = vec![
            0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
        ];
        let transaction =
            Histogram::with_opts(HistogramOpts::new(TRANSACTION.0, TRANSACTION.1).buckets(buckets))?;
        registry.register(Box::new(transaction.clone()))?;
        let workers = Gauge::with_opts(Opts::new(WORKERS.0, WORKERS.1))?;
        workers.set(f64::from(settings.workers));
        registry.register(Box::new(workers))?;
        let figures = Self {
            registry,
            counters,
            connected,
            success,
            transaction,
        };
        for counter in &settings.counters {
            let name = counter.name.as_str();
            for outcome in ["applied", "duplicate", "parked", "superseded", "failed"] {
                figures.add("preshard_flush_batches_total", &[name, outcome], 0);
            }
            for kind in ["reset", "rolled_back", "unrecorded", "past"] {
                figures.add("preshard_flush_chain_total", &[name, kind], 0);
            }
            for family in ["members", "rows", "dead_letters", "redeliveries"] {
                figures.add(&format!("preshard_flush_{family}_total"), &[name], 0);
            }
        }
        Ok(figures)
    }

    pub(super) fn add(&self, family: &str, labels: &[&str], count: u64) {
        let known = COUNTERS.iter().position(|(name, ..)| *name == family);
        let cell = known.and_then(|at| self.counters[at].get_metric_with_label_values(labels).ok());
        if let Some(cell) = cell {
            cell.inc_by(count);
        }
    }

    pub(super) fn outcome(&self, counter: &str, outcome: &str, count: usize) {
        self.add("preshard_flush_batches_total", &[counter, outcome], count as u64);
    }

    pub(super) fn error(&self, side: Side, kind: &str) {
        self.add("preshard_flush_errors_total", &[side.word(), kind], 1);
    }

    pub(super) fn taken(&self, counter: &str, batches: &[Batch]) {
        let again = batches.iter().filter(|batch| batch.attempt > 1).count();
        self.add("preshard_flush_redeliveries_total", &[counter], again as u64);
    }

    /// A worker's connection came or went.
    pub(super) fn connected(&self, side: Side, came: bool) {
        let cell = self.connected.with_label_values(&[side.word()]);
        cell.add(if came { 1 } else { -1 });
    }

    pub(super) fn success(&self, counter: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.success
            .with_label_values(&[counter])
            .set(now.as_secs_f64().floor());
    }

    /// The exposition.
    pub(super) fn page(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}
