//! Verification while a move can be taken back: the source follows the target, and both are compared along that stream.
//!
//! ```text
//!  asked ─▶ does the source follow? ─▶ compared, beside everything else ─▶ same · different (no rollback then)
//!    ▲            │ not yet, or not any more: begun anew, three times at most
//!    └────────────┘
//!  CANCEL, ROLLBACK, FINALIZE, another move, the end of the way back ─▶ ended at once: failed, and why
//! ```
//!
//! The roles are those of the stream: the node that has the shards is read first, the one that follows stops where that was. What
//! is open when a leader dies is in the record, and the next one begins it anew.

use std::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant as Moment, sleep_until};

#[cfg(not(test))]
use super::super::copy::Copy;
use super::super::cutover::Failure;
use super::super::drive::{Driven, FOLLOW_PACE, NOTE_PACE};
use super::super::error::CopyError;
use super::super::ledger::Ledger;
#[cfg(test)]
use super::super::sim::Copy;
use super::super::task::Wish;
use super::Checked;
use super::phase::TRIES;
use super::record::{Sample, VerifyState};

/// The comparison of one order, as often as it is begun.
#[derive(Debug)]
pub(in crate::migration) struct Comparison {
    order: u64,
    begun: Instant,
    tried: u32,
    /// Why the last one came to no end.
    error: String,
    /// When there is something to be done again.
    due: Moment,
    seeing: watch::Receiver<Checked>,
    /// At most one.
    work: JoinSet<Result<Checked, CopyError>>,
}

impl Comparison {
    pub(in crate::migration) fn none() -> Self {
        Self::of(0)
    }

    fn of(order: u64) -> Self {
        Self {
            order,
            begun: Instant::now(),
            tried: 0,
            error: String::new(),
            due: Moment::now(),
            seeing: watch::channel(Checked::default()).1,
            work: JoinSet::new(),
        }
    }

    /// Lets the stream go on as if nobody had looked. When this returns, nothing is compared any more.
    pub(in crate::migration) async fn interrupt(&mut self) {
        while let Some(ended) = self.work.try_join_next() {
            if let Ok(Err(error)) = ended {
                self.error = error.to_string();
            }
        }
        self.work.shutdown().await;
    }

    /// Until there is something to be looked after, while something is compared. May be dropped at any time.
    pub(in crate::migration) async fn until_due(&self) {
        if self.work.is_empty() {
            std::future::pending::<()>().await;
        }
        let mut seeing = self.seeing.clone();
        tokio::select! {
            () = sleep_until(self.due) => {}
            // Whoever compares has left.
            () = async { while seeing.changed().await.is_ok() {} } => {}
        }
    }

    /// Begins what is asked, and notes how far it is and how it ended. `copy`: the stream that the source follows, if it does.
    pub(in crate::migration) async fn look_after(
        &mut self,
        driven: &Driven<'_>,
        ledger: &mut Ledger<'_>,
        copy: Option<&Copy>,
    ) -> Result<(), Failure> {
        if ledger.task.wish == Some(Wish::Cancel) {
            self.interrupt().await;
            ledger
                .write(|task| {
                    // The move itself is over; so this is all that can be meant.
                    task.wish = None;
                    task.verify
                        .iter_mut()
                        .for_each(|verify| verify.fail("it was cancelled"));
                })
                .await?;
        }
        let open = ledger.task.verify.as_ref().filter(|verify| verify.is_open());
        let Some((order, sample)) = open.map(|verify| (verify.order, verify.sample)) else {
            self.interrupt().await;
            return Ok(());
        };
        if !ledger.task.is_reversible() {
            self.interrupt().await;
            // Why there is nothing to compare, is noted with whatever is written.
            return Ok(ledger.write(|_| ()).await?);
        }
        if order != self.order {
            self.interrupt().await;
            *self = Self::of(order);
        }
        match self.work.try_join_next() {
            Some(Ok(Ok(checked))) => {
                let name = self.name(driven);
                return driven.verified_as(ledger, &checked, self.begun, &name).await;
            }
            Some(Ok(Err(error))) => self.failed(driven, error.to_string()),
            Some(Err(died)) => self.failed(driven, died.to_string()),
            None => {}
        }
        if self.due > Moment::now() {
            return Ok(());
        }
        if self.work.is_empty() {
            return self.begin(driven, ledger, copy, sample).await;
        }
        self.due = Moment::now() + NOTE_PACE;
        // A store that is away must not end the stream for that; the next note says it as well.
        if let Err(error) = self.noted(driven, ledger, VerifyState::Running).await {
            tracing::debug!(event = "verification_not_noted", task = driven.id, %error);
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        driven: &Driven<'_>,
        ledger: &mut Ledger<'_>,
        copy: Option<&Copy>,
        sample: Sample,
    ) -> Result<(), Failure> {
        if self.tried >= TRIES {
            return self.noted(driven, ledger, VerifyState::Failed).await;
        }
        let Some(copy) = copy else {
            return Ok(());
        };
        self.tried += 1;
        let (seen, seeing) = watch::channel(Checked::default());
        self.seeing = seeing;
        self.due = Moment::now() + NOTE_PACE;
        // Its sender goes with it: then there is something to be looked after.
        let work = copy.verify(driven.compare(sample), &seen);
        self.work.spawn(work);
        Ok(())
    }

    fn failed(&mut self, driven: &Driven<'_>, error: String) {
        tracing::info!(event = "verification_again", task = driven.id, error);
        self.error = error;
        self.due = Moment::now() + FOLLOW_PACE;
    }

    async fn noted(
        &self,
        driven: &Driven<'_>,
        ledger: &mut Ledger<'_>,
        state: VerifyState,
    ) -> Result<(), Failure> {
        let checked = self.seeing.borrow().clone();
        let error = match state {
            // Whoever reads it knows the nodes by what they were in the move.
            VerifyState::Failed => format!(
                "{TRIES} times it came to no end; the last time (here node '{}' is the source, and node '{}' the target): {}",
                driven.source,
                driven.target,
                if self.error.is_empty() {
                    "the source did not follow any more"
                } else {
                    &self.error
                }
            ),
            _ => String::new(),
        };
        let name = self.name(driven);
        driven
            .noted(ledger, state, &checked, self.begun, (&name, &error))
            .await
    }

    /// Which copy is compared.
    fn name(&self, driven: &Driven<'_>) -> String {
        format!("back-{}-{}", driven.term, self.tried)
    }
}
