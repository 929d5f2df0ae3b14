//! The applier step by step: the target stands where the source was at one offset, for as long as somebody looks at both.
//!
//! ```text
//!  Steps::hold ─▶ the applier stops before the next request
//!  source: MULTI … INFO replication EXEC ─▶ offset P, which is nowhere before the place where the applier stands
//!  Steps::to(P) ─▶ the applier goes on and stops before the first request that ends behind P; all is answered
//!  target: read ─▶ next step, or Steps dropped: the applier goes on as before
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::error::CopyError;
use super::state::{Phase, Shared};

/// No request behind this offset is applied; `u64::MAX`: all are. And at which gate the applier was seen standing.
#[derive(Debug)]
pub(super) struct Gate {
    at: watch::Sender<u64>,
    stood: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            at: watch::Sender::new(u64::MAX),
            stood: watch::Sender::new(0),
        }
    }
}

impl Gate {
    /// Where the applier may go.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.at.subscribe()
    }

    /// Everything up to this gate is answered.
    pub(super) fn stand(&self, at: u64) {
        self.stood.send_replace(at);
    }

    /// As if nobody had ever looked.
    pub(super) fn open(&self) {
        self.at.send_replace(u64::MAX);
    }
}

/// As long as this is there, the applier goes where it is told. There is one at a time.
#[derive(Debug)]
pub(super) struct Steps {
    shared: Arc<Shared>,
    /// The attempt whose applier this is.
    restarts: u32,
}

impl Steps {
    /// Stops the applier.
    ///
    /// # Errors
    /// The copy does not follow the stream.
    pub(super) fn hold(shared: &Arc<Shared>) -> Result<Self, CopyError> {
        let now = shared.progress();
        if now.phase != Phase::Streaming {
            return Err(now.last_error.unwrap_or(CopyError::NotStreaming));
        }
        // What has been applied was received, so the source is behind none of it.
        shared.gate.at.send_replace(0);
        Ok(Self {
            shared: Arc::clone(shared),
            restarts: now.restarts,
        })
    }

    /// Waits until the target has answered everything up to an offset, and nothing behind it. The offset must have been
    /// asked of the source after that of the last step. It may take long if the target is far behind.
    ///
    /// # Errors
    /// The copy has begun again or ended, or has not come any further for as long as `patience`.
    pub(super) async fn to(&self, offset: u64, patience: Duration) -> Result<(), CopyError> {
        let (mut stood, mut progress) = (self.shared.gate.stood.subscribe(), self.shared.subscribe());
        self.shared.gate.stand(0);
        self.shared.gate.at.send_replace(offset);
        let ended = |restarts: u32, phase: Phase| phase != Phase::Streaming || restarts != self.restarts;
        let reached = async {
            tokio::select! {
                _ = stood.wait_for(|at| *at == offset) => {}
                _ = progress.wait_for(|now| ended(now.restarts, now.phase)) => {}
            }
        };
        tokio::pin!(reached);
        let mut came_to = self.shared.progress().applied_offset;
        loop {
            let in_time = timeout(patience, &mut reached).await.is_ok();
            let now = self.shared.progress();
            if ended(now.restarts, now.phase) {
                return Err(now.last_error.unwrap_or(CopyError::NotStreaming));
            }
            if in_time {
                return Ok(());
            }
            if now.applied_offset == came_to {
                return Err(CopyError::SourceSilent(patience));
            }
            came_to = now.applied_offset;
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.shared.gate.open();
    }
}

#[cfg(test)]
mod tests {
    use super::super::CopyLimits;
    use super::*;

    fn streaming() -> Arc<Shared> {
        let shared = Arc::new(Shared::new(CopyLimits::default()));
        shared.note(|progress| progress.phase = Phase::Streaming);
        shared
    }

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_step_ends_where_the_applier_stands_and_the_gate_opens_at_the_end() {
        let shared = streaming();
        let steps = Steps::hold(&shared).unwrap();
        let mut gate = shared.gate.subscribe();
        assert_eq!(*gate.borrow_and_update(), 0);
        let applier = async {
            gate.changed().await.unwrap();
            let at = *gate.borrow_and_update();
            shared.gate.stand(at);
        };
        let (reached, ()) = tokio::join!(steps.to(7, LATE), applier);
        assert_eq!(reached, Ok(()));
        assert_eq!(
            steps.to(7, SOON).await,
            Err(CopyError::SourceSilent(SOON)),
            "what was true before is asked again"
        );
        drop(steps);
        assert_eq!(*gate.borrow(), u64::MAX);
    }

    #[tokio::test]
    async fn a_copy_that_begins_again_ends_the_step() {
        let shared = streaming();
        let steps = Steps::hold(&shared).unwrap();
        let restart = async {
            shared.note(|progress| {
                progress.phase = Phase::Restarting;
                progress.last_error = Some(CopyError::Stopped);
            });
        };
        let (reached, ()) = tokio::join!(steps.to(7, LATE), restart);
        assert_eq!(reached, Err(CopyError::Stopped));
        assert!(Steps::hold(&shared).is_err());
    }
}
