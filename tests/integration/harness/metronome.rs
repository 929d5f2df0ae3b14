//! How late the machine itself was while a time was measured: a thread that wakes up all the time and notes when it could not.
//!
//! A test that shows how long others wait at most allows them that on top: on a machine that stood still everybody waited. One whose
//! premise is that nobody stands still for long is made again when the machine did: [`undisturbed`].

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_millis(5);
/// A beat that is so late is no jitter: the machine stood still.
const STALL: Duration = Duration::from_millis(50);
/// How often a test is made on a machine that stands still each time.
const ATTEMPTS_MAX: usize = 6;

/// It beats as long as it lives.
#[derive(Debug)]
pub(crate) struct Metronome(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    latest_micros: AtomicU64,
    stalled_micros: AtomicU64,
    done: AtomicBool,
}

impl Metronome {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let beating = Arc::clone(&shared);
        std::thread::spawn(move || {
            while !beating.done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::park_timeout(BEAT);
                let late = begun.elapsed().saturating_sub(BEAT);
                let micros = u64::try_from(late.as_micros()).unwrap();
                beating.latest_micros.fetch_max(micros, Ordering::Relaxed);
                if late >= STALL {
                    beating.stalled_micros.fetch_add(micros, Ordering::Relaxed);
                }
            }
        });
        Self(shared)
    }

    /// How late the machine was by now: the longest time that a beat was late, or all the times together that it stood still.
    pub(crate) fn late(&self) -> Duration {
        let [latest, stalled] =
            [&self.0.latest_micros, &self.0.stalled_micros].map(|micros| micros.load(Ordering::Relaxed));
        Duration::from_micros(latest.max(stalled))
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}

/// Makes a test that holds on a machine that goes on. When it fails, and the machine stood still meanwhile for as long as it does not
/// bear, that is no measurement, and it is made anew; any other failure is one.
pub(crate) fn undisturbed(bears: Duration, test: impl Fn()) {
    for attempt in 1.. {
        let metronome = Metronome::start();
        let Err(failure) = catch_unwind(AssertUnwindSafe(&test)) else {
            return;
        };
        // Who was late may have noticed before the beat has.
        std::thread::park_timeout(BEAT * 2);
        let late = metronome.late();
        if late < bears || attempt == ATTEMPTS_MAX {
            resume_unwind(failure);
        }
        eprintln!(
            "attempt {attempt}: the machine stood still for {late:?}, which this test does not bear: once more"
        );
    }
}
