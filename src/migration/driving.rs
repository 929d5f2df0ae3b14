//! What a leader has under way, and how soon something that has ended is begun again.
//!
//! ```text
//!  spawn ─▶ runs ─▶ ended: over? ─▶ it is not asked for again
//!                           no  ─▶ a pause, twice as long each time that it ends so soon ─▶ spawn
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// What has ended is not begun again before: doubled up to the longest, which clients of held shards wait for when the store is back.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// One that was begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    at: Instant,
    /// None: it has ended.
    running: Option<Id>,
    not_before: Instant,
    pause: Duration,
}

/// What this proxy does while it leads.
#[derive(Debug, Default)]
pub(super) struct Driving {
    running: JoinSet<()>,
    /// By task.
    begun: BTreeMap<String, Begun>,
}

impl Driving {
    /// Whether something is under way for a task.
    pub(super) fn has(&self, id: &str) -> bool {
        self.begun.get(id).is_some_and(|begun| begun.running.is_some())
    }

    /// Whether it has ended just now, so that it is not begun again yet.
    pub(super) fn rests(&self, id: &str) -> bool {
        let begun = self.begun.get(id);
        begun.is_some_and(|begun| Instant::now() < begun.not_before)
    }

    pub(super) fn spawn(&mut self, id: &str, work: impl Future<Output = ()> + Send + 'static) {
        let spawned = self.running.spawn(work).id();
        let now = Instant::now();
        let begun = self.begun.entry(id.to_owned()).or_insert(Begun {
            at: now,
            running: None,
            not_before: now,
            pause: PAUSE,
        });
        (begun.at, begun.running) = (now, Some(spawned));
    }

    /// Waits until something has ended. Never, if nothing is under way.
    pub(super) async fn until_ended(&mut self) {
        let Some(ended) = self.running.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let number = ended.as_ref().map_or_else(JoinError::id, |(number, ())| *number);
        if let Err(error) = ended {
            tracing::error!(event = "move_died", %error);
        }
        let now = Instant::now();
        let mut begun = self.begun.values_mut();
        if let Some(begun) = begun.find(|begun| begun.running == Some(number)) {
            begun.running = None;
            // Whatever went on for so long does not fail at once.
            if now.duration_since(begun.at) >= PAUSE_MAX {
                begun.pause = PAUSE;
            }
            begun.not_before = now + begun.pause;
            begun.pause = (begun.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Forgets what has ended, of tasks of which nothing is known any more.
    pub(super) fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        self.begun
            .retain(|id, begun| begun.running.is_some() || is_known(id));
    }

    /// Ends everything.
    pub(super) async fn shutdown(&mut self) {
        self.running.shutdown().await;
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_ends_at_once_again_and_again_is_begun_more_and_more_seldom() {
        let (begun, mut driving, mut spawned) = (Instant::now(), Driving::default(), Vec::new());
        while spawned.len() < 8 {
            if !driving.rests("m1") {
                spawned.push(begun.elapsed());
                driving.spawn("m1", std::future::ready(()));
                assert!(driving.has("m1"));
                driving.until_ended().await;
                assert!(!driving.has("m1") && driving.rests("m1"));
            }
            assert!(!driving.rests("m2"), "of another task nothing has ended");
            advance(Duration::from_millis(50)).await;
        }
        let pauses: Vec<u128> = spawned
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis())
            .collect();
        assert_eq!(pauses, [250, 500, 1000, 2000, 2000, 2000, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_gone_on_for_long_is_begun_again_soon() {
        let mut driving = Driving::default();
        for _ in 0..6 {
            driving.spawn("m1", std::future::ready(()));
            driving.until_ended().await;
        }
        driving.spawn("m1", sleep(PAUSE_MAX));
        driving.until_ended().await;
        advance(PAUSE).await;
        assert!(!driving.rests("m1"));
        driving.keep(|id| id != "m1");
        assert!(driving.begun.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_has_ended_as_well() {
        let mut driving = Driving::default();
        driving.spawn("m1", async { panic!("on purpose") });
        driving.until_ended().await;
        assert!(!driving.has("m1") && driving.rests("m1"));
    }
}
