//! Verification as a phase of a move: between the copy and the cutover, by order or by option.
//!
//! ```text
//!  streaming ─▶ [verifying] ─same─▶ [ready ─ the word ─▶] cutting-over
//!                    └─ differs, or came to no end ─▶ ready, with the reason: no cutover before another one finds no difference
//! ```

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

#[cfg(not(test))]
use super::super::copy::Copy;
use super::super::cutover::Failure;
use super::super::drive::{Driven, FOLLOW_PACE, NOTE_PACE};
use super::super::error::CopyError;
use super::super::ledger::Ledger;
use super::super::running::Running;
#[cfg(test)]
use super::super::sim::Copy;
use super::super::state::Phase;
use super::super::task::{State, Wish};
use super::record::{Sample, Verification, VerifyState};
use super::{Checked, Compare};

/// How often a comparison is begun whose copy has begun again.
pub(super) const TRIES: u32 = 3;
/// Along a way back the clocks of the nodes were measured when the move was made, and again since: each time they may have been
/// half a second apart.
const SLACK: Duration = Duration::from_secs(1);

impl Driven<'_> {
    /// Verifies if that is ordered, and waits for an operator's word if there is to be one. Whether the move is to be cancelled.
    pub(in crate::migration) async fn until_word(
        &self,
        running: &mut Running,
        ledger: &mut Ledger<'_>,
    ) -> Result<bool, Failure> {
        loop {
            let wish = ledger.wish().await?;
            if wish == Some(Wish::Cancel) {
                return Ok(true);
            }
            self.check_place(running.target())?;
            self.forget_others(running.copy()?, ledger).await?;
            let verify = ledger.task.verify.as_ref();
            if verify.is_some_and(Verification::is_open) {
                ledger.enter(State::Verifying).await?;
                self.verified(running.copy()?, ledger).await?;
                continue;
            }
            let permitted = verify.is_none_or(Verification::permits);
            if permitted && (wish == Some(Wish::Cutover) || !ledger.task.manual) {
                return Ok(false);
            }
            if !permitted && (wish == Some(Wish::Cutover) || ledger.task.state != State::Ready) {
                let why = verify.map(Verification::why_not).unwrap_or_default();
                ledger
                    .write(|task| {
                        // From here on it waits for the word in any case.
                        task.manual = true;
                        task.wish = None;
                        task.error.clone_from(&why);
                    })
                    .await?;
            }
            if ledger.task.state != State::Ready {
                ledger.enter(State::Ready).await?;
            }
            self.note(ledger, running.copy()?).await?;
            sleep(NOTE_PACE).await;
        }
    }

    /// What is compared on the two nodes.
    pub(super) fn compare(&self, sample: Sample) -> Compare {
        Compare {
            sample,
            source: format!("node '{}'", self.source),
            target: format!("node '{}'", self.target),
            slack: self.reverse.map_or(Duration::ZERO, |_| SLACK),
        }
    }

    /// The name of a copy: there may have been others, of leaders of the past, or that have begun again.
    fn name_of(&self, copy: &Copy) -> String {
        format!("{}-{}", self.term, copy.progress().restarts)
    }

    /// What was found of another copy says nothing of this one: it is verified again.
    async fn forget_others(&self, copy: &Copy, ledger: &mut Ledger<'_>) -> Result<(), Failure> {
        let name = self.name_of(copy);
        let verify = ledger.task.verify.as_ref();
        if verify.is_some_and(|verify| !verify.is_open() && verify.copy != name) {
            ledger
                .write(|task| {
                    task.verify = task
                        .verify
                        .as_ref()
                        .map(|verify| Verification::asked(verify.sample))
                })
                .await?;
        }
        Ok(())
    }

    /// Waits until the copy follows the stream, however far behind: nothing more is needed to compare. Whether there is a wish
    /// that ends the waiting.
    async fn until_streams(&self, copy: &Copy, ledger: &mut Ledger<'_>) -> Result<bool, Failure> {
        loop {
            let now = copy.progress();
            match now.phase {
                Phase::Streaming => return Ok(false),
                Phase::Failed | Phase::Stopped => {
                    let why = now.last_error.unwrap_or(CopyError::Stopped);
                    return Err(Failure::Final(why.to_string()));
                }
                Phase::Attaching | Phase::Snapshot | Phase::Attached | Phase::Restarting => {}
            }
            if ends(ledger.wish().await?) {
                return Ok(true);
            }
            sleep(NOTE_PACE).await;
        }
    }

    /// One verification, with its end in the record. It is left open when something else is wished.
    pub(in crate::migration) async fn verified(
        &self,
        copy: &Copy,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        for tried in 1..=TRIES {
            if self.until_streams(copy, ledger).await? {
                return Ok(());
            }
            let sample = ledger
                .task
                .verify
                .as_ref()
                .map(|verify| verify.sample)
                .unwrap_or_default();
            let (seen, seeing) = watch::channel(Checked::default());
            let name = self.name_of(copy);
            let verifying = copy.verify(self.compare(sample), &seen);
            tokio::pin!(verifying);
            let ended = loop {
                if let Ok(ended) = timeout(NOTE_PACE, &mut verifying).await {
                    break ended;
                }
                let checked = seeing.borrow().clone();
                self.noted(ledger, VerifyState::Running, &checked, begun, (&name, ""))
                    .await?;
                if ends(ledger.wish().await?) {
                    return Ok(());
                }
            };
            match ended {
                Ok(checked) => return self.verified_as(ledger, &checked, begun, &name).await,
                Err(error) if tried < TRIES => {
                    tracing::info!(event = "verification_again", task = self.id, %error);
                    sleep(FOLLOW_PACE).await;
                }
                Err(error) => {
                    let checked = seeing.borrow().clone();
                    self.noted(
                        ledger,
                        VerifyState::Failed,
                        &checked,
                        begun,
                        (&name, &error.to_string()),
                    )
                    .await?;
                }
            }
        }
        Ok(())
    }

    /// It came to its end.
    pub(super) async fn verified_as(
        &self,
        ledger: &mut Ledger<'_>,
        checked: &Checked,
        begun: Instant,
        name: &str,
    ) -> Result<(), Failure> {
        let state = if checked.mismatches == 0 {
            VerifyState::Same
        } else {
            VerifyState::Different
        };
        self.noted(ledger, state, checked, begun, (name, "")).await?;
        tracing::info!(
            event = "move_verified",
            task = self.id,
            owner = self.source,
            follower = self.target,
            keys = checked.keys,
            mismatches = checked.mismatches
        );
        Ok(())
    }

    pub(super) async fn noted(
        &self,
        ledger: &mut Ledger<'_>,
        state: VerifyState,
        checked: &Checked,
        begun: Instant,
        (copy, error): (&str, &str),
    ) -> Result<(), Failure> {
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let order = ledger.task.verify.as_ref().map(|verify| verify.order);
        ledger
            .write(|task| {
                // Another order may have come meanwhile.
                if let Some(verify) = task.verify.as_mut().filter(|verify| Some(verify.order) == order) {
                    verify.note(checked);
                    verify.state = state;
                    if state == VerifyState::Same {
                        task.error.clear();
                    }
                    verify.ms = ms;
                    error.clone_into(&mut verify.error);
                    copy.clone_into(&mut verify.copy);
                    self.source.clone_into(&mut verify.owner);
                    self.target.clone_into(&mut verify.follower);
                }
            })
            .await?;
        Ok(())
    }
}

/// Whether a wish is more than that shards be cut over, which waits for the end of a comparison.
const fn ends(wish: Option<Wish>) -> bool {
    !matches!(wish, None | Some(Wish::Cutover))
}
