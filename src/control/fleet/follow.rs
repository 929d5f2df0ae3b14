//! What the store has, as soon as it changes; a topology of a higher epoch is put in force.
//!
//! Older is never adopted, wherever it comes from: an etcd that was restored from a backup, or an operator's mistake. It is told
//! once, and served is what was served.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;

use super::{Fleet, RETRY};
use crate::store::Snapshot;

/// Links that wait ring again and again; the store is not asked more often than this, and less often while it has nothing new.
const CATCH_UP_PACE: Duration = Duration::from_millis(20);
const CATCH_UP_PACE_MAX: Duration = Duration::from_secs(2);

pub(super) async fn follow(fleet: Arc<Fleet>) {
    let mut watch = fleet.store.watch();
    loop {
        let next = watch.next().await;
        fleet.resyncs.store(watch.resyncs(), Relaxed);
        match next {
            Ok(snapshot) => {
                fleet.note_answer();
                fleet.handle(&snapshot);
                fleet.snapshot.send_replace(snapshot);
            }
            Err(error) => {
                fleet.note_silence(&error);
                sleep(RETRY).await;
            }
        }
    }
}

/// A node carries a mark of a higher epoch than is served here: the news is on its way, or the watch is deaf.
pub(super) async fn catch_up(fleet: Arc<Fleet>) {
    let mut pace = CATCH_UP_PACE;
    loop {
        fleet.shared.behind.notified().await;
        let before = fleet.shared.topology.load().epoch;
        match fleet.store.load().await {
            Ok(stored) => {
                if let Some(topology) = &stored.topology {
                    fleet.adopt(topology);
                }
            }
            Err(error) => fleet.note_error(&error),
        }
        let is_news = fleet.shared.topology.load().epoch > before;
        pace = if is_news {
            CATCH_UP_PACE
        } else {
            (pace * 2).min(CATCH_UP_PACE_MAX)
        };
        sleep(pace).await;
    }
}

impl Fleet {
    fn handle(&self, snapshot: &Snapshot) {
        let written = snapshot.stored.revision.0;
        let served = self.shared.topology.load_full();
        let is_newer = written > self.revision.load(Relaxed);
        match &snapshot.stored.topology {
            Some(topology) if topology.epoch >= served.epoch => {
                self.revision.fetch_max(written, Relaxed);
                self.adopt(topology);
            }
            // Written after what is served, and older all the same.
            Some(topology) if is_newer => {
                self.revision.store(written, Relaxed);
                tracing::warn!(
                    event = "store_is_older",
                    epoch = topology.epoch.0,
                    served = served.epoch.0,
                    "somebody put an older topology into the store; it is not served: restore it with PRESHARD TOPOLOGY LOAD"
                );
            }
            Some(_) => {}
            None => self.tell_of_nothing(snapshot),
        }
    }

    /// There is no topology where there was one.
    fn tell_of_nothing(&self, snapshot: &Snapshot) {
        let before = self.snapshot.borrow().stored.topology.is_some();
        if !before {
            return;
        }
        let why = snapshot.damaged.as_deref().unwrap_or("somebody has deleted it");
        tracing::warn!(
            event = "store_lost_topology",
            why,
            "served is what was served; restore it: preshard restore"
        );
    }
}
