//! This proxy's record in the store, kept true: there while it lives, with the epoch that it serves.
//!
//! The record that the watch shows is compared with what it should be, so that it comes back whatever became of it: a lease
//! that ended while the process was stopped, a write that came late, a hand that deleted it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{Fleet, RETRY, lock};
use crate::store::{Lease, ProxyRecord, Revision, StoreError};

/// After so long without a sign of life a proxy counts as gone.
pub(super) const PROXY_TTL: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(1250);
/// How old the number of clients may become.
const REFRESH: Duration = Duration::from_secs(15);

/// What was written last.
struct Written {
    record: ProxyRecord,
    revision: Revision,
    at: Instant,
}

pub(super) async fn stay_registered(fleet: Arc<Fleet>) {
    loop {
        match fleet.store.grant(PROXY_TTL).await {
            Ok(lease) => {
                *lock(&fleet.registration) = Some(lease);
                fleet.hold_registration(lease).await;
                tracing::debug!(event = "registration_ended");
            }
            Err(error) => {
                fleet.note_error(&error);
                sleep(RETRY).await;
            }
        }
    }
}

impl Fleet {
    /// Until the lease ends.
    async fn hold_registration(&self, lease: Lease) {
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut news = self.snapshot.subscribe();
        let mut adopted = self.adopted.subscribe();
        let mut written: Option<Written> = None;
        let mut not_before = Instant::now();
        loop {
            let record = self.own_record();
            if Instant::now() >= not_before && self.must_write(&record, written.as_ref()) {
                match self.store.register(lease, &record).await {
                    Ok(revision) => {
                        written = Some(Written {
                            record: record.clone(),
                            revision,
                            at: Instant::now(),
                        });
                    }
                    Err(StoreError::LeaseEnded { .. }) => return,
                    Err(error) => {
                        self.note_error(&error);
                        not_before = Instant::now() + RETRY;
                    }
                }
            }
            let adopting = self.shared.topology.load().epoch;
            let workers_follow = record.epoch() < adopting;
            let failed = Instant::now() < not_before;
            tokio::select! {
                _ = beat.tick() => match self.store.keep_alive(lease).await {
                    Ok(true) => {}
                    Ok(false) | Err(StoreError::LeaseEnded { .. }) => return,
                    Err(error) => self.note_error(&error),
                },
                // Its sender is the fleet, which lives.
                _ = news.changed() => {}
                _ = adopted.changed() => {}
                () = sleep(RETRY), if failed => {}
                () = self.shared.until_served(adopting), if workers_follow && !failed => {}
            }
        }
    }

    fn must_write(&self, record: &ProxyRecord, written: Option<&Written>) -> bool {
        let Some(written) = written else {
            return true;
        };
        let mut as_written = written.record.clone();
        let is_old = written.at.elapsed() >= REFRESH;
        if !is_old {
            as_written.clients = record.clients;
        }
        if as_written != *record {
            return true;
        }
        let snapshot = self.snapshot.borrow();
        let seen = snapshot.proxies.get(&record.id);
        // What is older than the write says nothing about it.
        snapshot.revision >= written.revision && seen != Some(&written.record)
    }
}
