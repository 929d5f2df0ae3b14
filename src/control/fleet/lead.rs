//! One of the proxies leads: whoever wrote its name where there was none, as long as its lease lasts.
//!
//! ```text
//!  nobody leads ─▶ lease of 3 s ─▶ campaign ─┬─ lost ─▶ wait until nobody leads
//!        ▲                                   └─ won: a term, greater than all before
//!        │                                        │ each second: a sign of life; certain until 2.7 s after it was sent
//!        └── lease ended, or the proxy stops ◀────┘
//! ```
//!
//! The store counts from when a sign of life arrives, this proxy from when it was sent, less a tenth for clocks that differ: so it
//! stops to lead before anybody else can begin, without being told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Fleet, Leading, RETRY, lock};
use crate::store::{Ballot, Lease, Revision, Snapshot, StoreError, Term};

const LEADER_TTL: Duration = Duration::from_secs(3);
/// So long after a sign of life was sent leadership is certain.
const CERTAIN: Duration = Duration::from_millis(2700);
const BEAT: Duration = Duration::from_secs(1);

/// A campaign that was won.
struct Won {
    lease: Lease,
    term: Term,
    written: Revision,
    /// When the lease was asked for.
    sent: Instant,
}

/// Leads when it can, until `stopped`.
pub(super) async fn stand(fleet: Arc<Fleet>, mut stopped: watch::Receiver<bool>) {
    loop {
        let campaign = tokio::select! {
            // An error means that the sender is gone, which is a stop as well.
            _ = stopped.wait_for(|stop| *stop) => return,
            campaign = fleet.campaign() => campaign,
        };
        match campaign {
            Ok(Some(won)) => {
                let (lease, term) = (won.lease, won.term);
                tracing::info!(event = "leading", term = term.0);
                fleet.lead(&won, &mut stopped).await;
                *lock(&fleet.leading) = None;
                tracing::info!(event = "not_leading", term = term.0);
                // Gone already, or ending by itself, if nobody hears it.
                let _ = fleet.store.revoke(lease).await;
            }
            Ok(None) => sleep(RETRY).await,
            Err(error) => {
                fleet.note_error(&error);
                sleep(RETRY).await;
            }
        }
    }
}

impl Fleet {
    /// Waits until nobody leads, and tries.
    async fn campaign(&self) -> Result<Option<Won>, StoreError> {
        let mut news = self.snapshot.subscribe();
        let nobody = news.wait_for(|snapshot| snapshot.leader.is_none());
        // Its sender is the fleet, which lives.
        drop(nobody.await);
        let sent = Instant::now();
        let lease = self.store.grant(LEADER_TTL).await?;
        let ballot = self.store.campaign(lease, &self.shared.run_id).await;
        if let Ok(Ballot::Won(term, written)) = ballot {
            return Ok(Some(Won {
                lease,
                term,
                written,
                sent,
            }));
        }
        // Ends by itself if this is not heard.
        let _ = self.store.revoke(lease).await;
        ballot.map(|_| None)
    }

    /// Whether this proxy leads in `term` at a moment after this was asked, as the store says and no clock.
    pub(in crate::control) async fn confirm(&self, term: Term) -> Result<bool, StoreError> {
        let id = format!("leading-{term}");
        let over = match self.store.record(&id).await? {
            Some(record) => record.revision,
            None => Revision::NONE,
        };
        match self.store.put_record(&id, "{}", over, Some(term)).await {
            Ok(written) => {
                self.store.delete_record(&id, written, Some(term)).await?;
                Ok(true)
            }
            Err(StoreError::Deposed { .. } | StoreError::Changed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Until the lease ends or the proxy stops.
    async fn lead(&self, won: &Won, stopped: &mut watch::Receiver<bool>) {
        let term = won.term;
        let certain_until = |sent: Instant| {
            let until = sent + CERTAIN;
            *lock(&self.leading) = Some(Leading { term, until });
        };
        certain_until(won.sent);
        let mut news = self.snapshot.subscribe();
        let mut pause = BEAT;
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                // A hand has deleted the key, under a lease that lives.
                _ = news.wait_for(|snapshot| is_over(snapshot, won)) => return,
                () = sleep(pause) => {}
            }
            let sent = Instant::now();
            match self.store.keep_alive(won.lease).await {
                Ok(true) => {
                    certain_until(sent);
                    pause = BEAT;
                }
                Ok(false) | Err(StoreError::LeaseEnded { .. }) => return,
                Err(error) => {
                    self.note_error(&error);
                    pause = RETRY;
                }
            }
        }
    }
}

/// Whether what is known of the store is younger than the victory, and says otherwise.
fn is_over(snapshot: &Snapshot, won: &Won) -> bool {
    let term = snapshot.leader.as_ref().map(|leader| leader.term);
    snapshot.revision >= won.written && term != Some(won.term)
}
