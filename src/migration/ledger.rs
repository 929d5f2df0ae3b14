//! The record of one move while it is driven: written with the leader's term, so that nobody else writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

use super::drive::STORE_PACE;
use super::task::{Move, State, Wish};
use super::verify::merged;
use crate::control::Fleet;
use crate::store::{Record, Revision, StoreError, Term};

/// Times that an operator may write a record just before we do.
const RACES_MAX: usize = 5;

/// A record, and how it was when it was read last.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    fleet: &'a Fleet,
    pub(super) id: String,
    revision: Revision,
    pub(super) term: Term,
    pub(super) task: Move,
    /// How often its copy has begun again, as far as that was counted.
    pub(super) restarts: u32,
}

impl<'a> Ledger<'a> {
    /// The record of a move as it stands now; none if it is of something else, or cannot be read.
    pub(super) async fn open(fleet: &'a Fleet, record: &Record, term: Term) -> Option<Self> {
        let now = fleet.store().record(&record.id).await.ok()??;
        Some(Self {
            fleet,
            revision: now.revision,
            term,
            task: Move::decode(&now.document)?,
            restarts: 0,
            id: now.id,
        })
    }

    /// Writes what has changed. What an operator wishes meanwhile is kept.
    ///
    /// # Errors
    /// The store gives no answer, or another proxy leads.
    pub(super) async fn write(&mut self, change: impl Fn(&mut Move)) -> Result<(), StoreError> {
        change(&mut self.task);
        if self.task.state.is_over() && self.task.finished == 0 {
            self.task.finished = unix_now();
        }
        let mut races = 0;
        while races < RACES_MAX {
            // An order that came in the last moment is answered as well.
            if let (Some(why), Some(verify)) = (self.task.why_not_verified(), &mut self.task.verify) {
                verify.fail(&why);
            }
            let document = self.task.encode();
            let put = self
                .fleet
                .store()
                .put_record(&self.id, &document, self.revision, Some(self.term));
            match put.await {
                Ok(revision) => {
                    self.revision = revision;
                    return Ok(());
                }
                Err(error @ StoreError::Changed { .. }) => {
                    races += 1;
                    if !self.read().await? {
                        return Err(error);
                    }
                }
                Err(error) => self.may_ask_again(error).await?,
            }
        }
        Ok(())
    }

    /// Reads what an operator wishes now.
    pub(super) async fn wish(&mut self) -> Result<Option<Wish>, StoreError> {
        self.read().await?;
        Ok(self.task.wish)
    }

    /// Takes over what others have written. Whether there is a record.
    async fn read(&mut self) -> Result<bool, StoreError> {
        loop {
            match self.fleet.store().record(&self.id).await {
                Ok(Some(record)) => {
                    self.revision = record.revision;
                    if let Some(theirs) = Move::decode(&record.document) {
                        self.task.wish = theirs.wish;
                        self.task.verify = merged(self.task.verify.take(), theirs.verify);
                    }
                    return Ok(true);
                }
                Ok(None) => return Ok(false),
                Err(error) => self.may_ask_again(error).await?,
            }
        }
    }

    /// A store that gives no answer ends no move: it is asked again for as long as this proxy leads. What was written without an
    /// answer is found by its revision.
    async fn may_ask_again(&self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_unanswered() || self.fleet.leads() != Some(self.term) {
            return Err(error);
        }
        sleep(STORE_PACE).await;
        Ok(())
    }

    /// The state alone.
    pub(super) async fn enter(&mut self, state: State) -> Result<(), StoreError> {
        tracing::info!(event = "move_state", task = self.id, state = ?state);
        self.write(|task| task.state = state).await
    }
}

pub(super) fn unix_now() -> u64 {
    #[cfg(test)]
    if let Some(now) = super::sim::unix_now() {
        return now;
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
