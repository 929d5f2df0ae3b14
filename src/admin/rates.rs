//! Rates over the last ten seconds, out of counters that only grow.
//!
//! ```text
//!  every second: counters ─▶ ring of 11 samples        rate = (counters now − oldest sample) / time between
//! ```
//!
//! The workers count and never compute; whoever asks for a rate pays for the subtraction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::ids::ShardId;
use crate::metrics::{ShardTotals, Totals};
use crate::worker::shared::Shared;

/// How far back rates look, once the proxy has run for so long.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// One more than intervals, so that the oldest is a whole window away.
const SAMPLES: usize = 11;

/// The last samples of the counters.
#[derive(Debug, Default)]
pub struct Rates {
    samples: Mutex<VecDeque<Arc<Sample>>>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    totals: Totals,
    /// Requests and bytes, by shard.
    shards: Vec<(u64, u64)>,
}

/// The oldest sample, and how long ago it was.
#[derive(Debug)]
pub(super) struct Window {
    since: Option<Arc<Sample>>,
    millis: u64,
}

/// Samples the counters once a second for as long as it is polled.
pub async fn sample_rates(rates: Arc<Rates>, shared: Arc<Shared>) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        rates.sample(&shared, Instant::now());
    }
}

impl Rates {
    /// Takes one sample.
    pub fn sample(&self, shared: &Shared, now: Instant) {
        let topology = shared.topology.load();
        let of_shard = |shard| {
            let totals = shared.metrics.shard_totals(ShardId(shard));
            (totals.requests, bytes(&totals))
        };
        let sample = Sample {
            at: now,
            totals: shared.metrics.totals(),
            shards: (0..topology.total_shards()).map(of_shard).collect(),
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Arc::new(sample));
    }

    pub(super) fn window(&self, now: Instant) -> Window {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let since = samples.front().cloned();
        let age = since
            .as_ref()
            .map_or(Duration::ZERO, |sample| now.saturating_duration_since(sample.at));
        // In the first second a handful of requests would look like thousands a second.
        let millis = u64::try_from(age.max(SAMPLE_INTERVAL).as_millis()).unwrap_or(u64::MAX);
        Window { since, millis }
    }
}

impl Window {
    /// Requests and bytes a second of a shard that has counted `now`.
    pub(super) fn shard(&self, shard: ShardId, now: &ShardTotals) -> (u64, u64) {
        let (requests_before, bytes_before) = self.before(shard, now);
        (
            self.rate(requests_before, now.requests),
            self.rate(bytes_before, bytes(now)),
        )
    }

    /// What a shard had counted; as much as now if no sample knows it.
    fn before(&self, shard: ShardId, now: &ShardTotals) -> (u64, u64) {
        let sampled = self
            .since
            .as_ref()
            .and_then(|sample| sample.shards.get(shard.index()).copied());
        sampled.unwrap_or_else(|| (now.requests, bytes(now)))
    }

    /// Requests a second of several shards together, each with what it has counted `now`.
    pub(super) fn shards(&self, shards: impl Iterator<Item = (ShardId, ShardTotals)>) -> u64 {
        let (mut before, mut now) = (0_u64, 0_u64);
        for (shard, totals) in shards {
            before = before.saturating_add(self.before(shard, &totals).0);
            now = now.saturating_add(totals.requests);
        }
        self.rate(before, now)
    }

    /// What a sum of the whole proxy grew by a second.
    pub(super) fn total(&self, now: &Totals, of: impl Fn(&Totals) -> u64) -> u64 {
        let before = self
            .since
            .as_ref()
            .map_or_else(|| of(now), |sample| of(&sample.totals));
        self.rate(before, of(now))
    }

    /// Rounded to the nearest whole number. A counter that began anew counts from its new zero.
    fn rate(&self, before: u64, now: u64) -> u64 {
        let grown = if now >= before { now - before } else { now };
        let rate = (u128::from(grown) * 1000 + u128::from(self.millis / 2)) / u128::from(self.millis);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

fn bytes(totals: &ShardTotals) -> u64 {
    totals.request_bytes.saturating_add(totals.reply_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::context;

    #[test]
    fn rates_look_back_over_the_window_and_no_further() {
        let context = context("");
        let (rates, shared) = (&context.rates, &context.shared);
        let cells = shared.metrics.worker(0);
        let start = Instant::now();
        let rate = |now: Instant| {
            rates
                .window(now)
                .shard(ShardId(1), &shared.metrics.shard_totals(ShardId(1)))
        };
        assert_eq!(rate(start), (0, 0), "before the first sample nothing is known");
        for second in 0..60 {
            rates.sample(shared, start + SAMPLE_INTERVAL * second);
            // A burst in the first half, silence in the second.
            for _ in 0..if second < 30 { 100 } else { 0 } {
                cells.shard_request(ShardId(1), 7);
            }
        }
        assert_eq!(rates.samples.lock().unwrap().len(), SAMPLES);
        assert_eq!(rate(start + SAMPLE_INTERVAL * 60), (0, 0));
        for _ in 0..1100 {
            cells.shard_request(ShardId(1), 7);
        }
        assert_eq!(
            rate(start + SAMPLE_INTERVAL * 60),
            (100, 700),
            "1100 in the 11 s since the oldest sample"
        );
    }

    #[test]
    fn the_first_second_is_not_blown_up_and_a_new_zero_is_no_underflow() {
        let window = Window {
            since: None,
            millis: 1000,
        };
        assert_eq!(
            (window.rate(0, 5), window.rate(100, 5), window.rate(5, 5)),
            (5, 5, 0)
        );
        let context = context("");
        let now = Instant::now();
        context.rates.sample(&context.shared, now);
        assert_eq!(context.rates.window(now).millis, 1000);
    }
}
