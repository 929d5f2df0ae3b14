//! How late the machine itself was while a time was measured: a thread that wakes up all the time and notes when it could not.
//!
//! A test that shows how long others wait at most allows them that on top: on a machine that stood still everybody waited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_millis(5);

/// It beats as long as it lives.
#[derive(Debug)]
pub(crate) struct Metronome(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    late_micros: AtomicU64,
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
                let late = u64::try_from(late.as_micros()).unwrap();
                beating.late_micros.fetch_max(late, Ordering::Relaxed);
            }
        });
        Self(shared)
    }

    /// The longest time that a beat was late.
    pub(crate) fn late(&self) -> Duration {
        Duration::from_micros(self.0.late_micros.load(Ordering::Relaxed))
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
    }
}
