//! Cells: numbers with one writer.
//!
//! ```text
//!  worker thread ── load, add, store (relaxed) ──▶ cell ◀── load ── scrape
//! ```
//!
//! A shared counter costs a locked instruction on every request and a bounced cache line when two workers
//! count at once. Here each worker has cells of its own and is the only one that writes them, so that a plain
//! load and a plain store are enough; whoever scrapes adds the workers up. If two threads ever wrote the same
//! cell, counts would be lost but nothing worse: [`Cell::add_shared`] is for the few places that need it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or a level with a single writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds `n`. Only the cell's owner may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds one. Only the cell's owner may call this.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n` from any thread. All writers of such a cell must use this method.
    #[inline]
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value. Any thread may call this.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that goes up and down, with a single writer. It never goes below zero.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the level.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Raises the level by `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Lowers the level by `n`.
    #[inline]
    pub fn sub(&self, n: u64) {
        let level = self.0.load(Relaxed);
        debug_assert!(
            level >= n,
            "a level of {level} is lowered by {n}: what was added is taken off twice"
        );
        self.0.store(level.saturating_sub(n), Relaxed);
    }

    /// Raises the level by `n`, from any thread. All writers of such a level must use the shared methods.
    #[inline]
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Lowers the level by `n`, from any thread.
    #[inline]
    pub fn sub_shared(&self, n: u64) {
        let before = self.0.fetch_sub(n, Relaxed);
        debug_assert!(
            before >= n,
            "a level of {before} is lowered by {n}: what was added is taken off twice"
        );
    }

    /// The level. Any thread may call this.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets with an upper bound: 50 µs · 2ⁿ for n = 0..=15, that is 50 µs to 1.6384 s.
pub const BOUNDED_BUCKETS: usize = 16;
/// The bounded buckets and the one for everything slower.
pub const BUCKETS: usize = BOUNDED_BUCKETS + 1;
/// Upper bound of the first bucket in microseconds.
const FIRST_BOUND_MICROS: u32 = 50;

/// Upper bound of bucket `n` in seconds, infinite for the last one.
#[must_use]
pub fn bucket_bound_seconds(n: usize) -> f64 {
    if n >= BOUNDED_BUCKETS {
        return f64::INFINITY;
    }
    // Divided, not multiplied by 1e-6: the shortest decimal of the quotient is the one a reader expects.
    f64::from(FIRST_BOUND_MICROS << n) / 1e6
}

/// The bucket that holds a duration.
#[inline]
fn bucket_of(micros: u32) -> usize {
    // How often the first bound doubles until it holds the duration: the bit length of (micros - 1) / 50.
    let above = micros.saturating_sub(1) / FIRST_BOUND_MICROS;
    let index = (u32::BITS - above.leading_zeros()) as usize;
    index.min(BOUNDED_BUCKETS)
}

/// A distribution of durations with a single writer.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One count per bucket, not accumulated.
    buckets: [Cell; BUCKETS],
    sum_micros: Cell,
}

impl Histogram {
    /// Counts one duration. Microseconds in 32 bits reach 71 minutes; longer ones are passed as `u32::MAX`.
    #[inline]
    pub fn observe(&self, micros: u32) {
        self.buckets[bucket_of(micros)].add(1);
        self.sum_micros.add(u64::from(micros));
    }

    /// The same, from any thread. All writers of such a distribution must use this method.
    pub fn observe_shared(&self, micros: u32) {
        self.buckets[bucket_of(micros)].add_shared(1);
        self.sum_micros.add_shared(u64::from(micros));
    }

    /// Adds what was counted here to `total`.
    pub fn add_to(&self, total: &mut HistogramTotal) {
        for (sum, bucket) in total.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load();
        }
        total.sum_micros += self.sum_micros.load();
    }
}

/// What several histograms counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramTotal {
    /// One count per bucket, not accumulated; bounds by [`bucket_bound_seconds`].
    pub buckets: [u64; BUCKETS],
    /// Sum of all durations in microseconds.
    pub sum_micros: u64,
}

impl HistogramTotal {
    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One cell for each number below a length, and one more that takes every number beyond.
#[derive(Debug)]
pub struct Rows {
    cells: Box<[Cell]>,
}

impl Rows {
    /// Cells for the numbers `0..len`.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            cells: (0..=len).map(|_| Cell::default()).collect(),
        }
    }

    /// Adds `n` to the cell of `index`.
    #[inline]
    pub fn add(&self, index: usize, n: u64) {
        self.cells[index.min(self.cells.len() - 1)].add(n);
    }

    /// The value of the cell of `index`.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.cells[index.min(self.cells.len() - 1)].load()
    }

    /// The value of the cell for all numbers beyond the length.
    #[must_use]
    pub fn load_other(&self) -> u64 {
        self.load(usize::MAX)
    }

    /// How many numbers have a cell of their own.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len() - 1
    }

    /// Whether no number has a cell of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of all cells.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.cells.iter().map(Cell::load).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted_in(micros: u32) -> usize {
        let histogram = Histogram::default();
        histogram.observe(micros);
        let mut total = HistogramTotal::default();
        histogram.add_to(&mut total);
        assert_eq!(total.sum_micros, u64::from(micros));
        assert_eq!(total.count(), 1);
        total.buckets.iter().position(|&n| n == 1).unwrap()
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for n in 0..BOUNDED_BUCKETS {
            let bound = 50u32 << n;
            assert_eq!(counted_in(bound), n, "{bound} µs is still inside bound {n}");
            assert_eq!(
                counted_in(bound + 1),
                n + 1,
                "{} µs is beyond bound {n}",
                bound + 1
            );
        }
        assert_eq!(counted_in(0), 0);
        assert_eq!(counted_in(u32::MAX), BOUNDED_BUCKETS);
    }

    #[test]
    fn bounds_are_written_as_short_decimals() {
        let bounds: Vec<String> = (0..BUCKETS)
            .map(|n| bucket_bound_seconds(n).to_string())
            .collect();
        assert_eq!(bounds[0], "0.00005");
        assert_eq!(bounds[1], "0.0001");
        assert_eq!(bounds[15], "1.6384");
        assert_eq!(bounds[16], "inf");
        assert!(bounds.iter().all(|bound| bound.len() <= 7), "{bounds:?}");
    }

    #[test]
    fn numbers_beyond_the_rows_share_the_last_cell() {
        let rows = Rows::new(2);
        rows.add(0, 1);
        rows.add(1, 2);
        rows.add(2, 4);
        rows.add(usize::MAX, 8);
        assert_eq!((rows.load(0), rows.load(1), rows.load_other()), (1, 2, 12));
        assert_eq!((rows.len(), rows.sum()), (2, 15));
    }

    #[test]
    fn a_reader_never_sees_a_counter_go_back() {
        let cell = Cell::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|_| cell.add(3)));
            let mut last = 0;
            while last < 600_000 {
                let now = cell.load();
                assert!(now >= last && now % 3 == 0, "{last} then {now}");
                last = now;
            }
        });
    }
}
