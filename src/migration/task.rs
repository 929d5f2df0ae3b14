//! The record of a move: what was ordered, how far it is, how it ended. The same on every proxy, since it stands in the store.
//!
//! ```text
//!  planned ─▶ copying ─▶ streaming ─▶ [verifying] ─▶ [ready] ─▶ cutting-over ─▶ moved ─────────▶ finalized
//!     └──────────┴───────────┴───────────────┴────────────┤            ▲ │
//!                                                         ▼            │ ▼
//!                                             cancelled · failed       rolling-back ─▶ rolled-back
//! ```
//!
//! `cancelled`, `failed`, `rolled-back`: the source has the shards.
//!
//! Whether shards have moved is never read here: the topology says it. A record may be behind.

use serde::{Deserialize, Serialize};

use super::verify::{Verification, VerifyState};
use crate::config::CopyMethod;

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Ordered; it waits for its nodes.
    #[default]
    Planned,
    /// The snapshot is being copied.
    Copying,
    /// The target follows the source.
    Streaming,
    /// Source and target are compared.
    Verifying,
    /// It waits for the word to cut over.
    Ready,
    /// The shards are on their way.
    CuttingOver,
    /// The target serves them; the source still has its copy.
    Moved,
    /// The source's copy is gone.
    Finalized,
    /// The shards are on their way back.
    RollingBack,
    /// The source serves them again, with all that was written on the target.
    RolledBack,
    /// Stopped by an operator before the cutover.
    Cancelled,
    /// It has given up before the cutover.
    Failed,
}

impl State {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Moved | Self::Finalized | Self::RolledBack | Self::Cancelled | Self::Failed
        )
    }
}

/// What an operator wants of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// That it cuts over.
    Cutover,
    /// That it stops.
    Cancel,
    /// That the source's copy goes.
    Finalize,
    /// That the source has the shards again.
    Rollback,
}

/// What keeps writers from the source behind the freeze, and leaders of the past from the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fence {
    /// The nodes themselves, which are told to refuse them.
    #[default]
    Acl,
    /// On a node whose users are not preshard's, those who could write there, each for itself: weaker.
    Cooperative,
}

impl Fence {
    /// That of a move whose nodes all have users of preshard's, or not.
    #[must_use]
    pub const fn of(all_have_users: bool) -> Self {
        if all_have_users {
            Self::Acl
        } else {
            Self::Cooperative
        }
    }

    /// As operators read it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Cooperative => "cooperative",
        }
    }
}

/// Whether there is a way back, as a record says it.
pub(super) mod way_back {
    /// The source follows the target.
    pub(in super::super) const YES: &str = "yes";
    /// It is about to, or will again when a node is back.
    pub(in super::super) const SOON: &str = "soon";

    /// Before the cutover: it will be, or why it may not last.
    pub(in super::super) fn expected(but: Option<&str>) -> String {
        but.map_or_else(|| "expected".to_owned(), |but| format!("expected, but {but}"))
    }

    /// There is none, and why.
    pub(in super::super) fn no(why: &str) -> String {
        format!("no ({why})")
    }
}

/// What is answered to a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is so.
    Done,
    /// It is written into the record, or was.
    Take,
    /// It cannot be.
    Refuse(String),
}

/// A move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Always `move`.
    pub kind: String,
    /// How far it is.
    pub state: State,
    /// The task that it is a part of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// The shards, as a list such as `0-63`.
    pub shards: String,
    /// The node that has them.
    pub source: String,
    /// The node that gets them.
    pub target: String,
    /// What keeps those away who must not write.
    #[serde(default)]
    pub fence: Fence,
    /// It cuts over only when it is told to.
    #[serde(default)]
    pub manual: bool,
    /// How its keys are copied.
    #[serde(default)]
    pub copy: CopyMethod,
    /// Bytes to the target in a second; none: as fast as it can.
    #[serde(default)]
    pub rate: Option<u64>,
    /// The longest that the shards may be held, in milliseconds.
    pub max_pause_ms: u64,
    /// Keys copied.
    #[serde(default)]
    pub keys: u64,
    /// Bytes copied.
    #[serde(default)]
    pub bytes: u64,
    /// How far the target is behind.
    #[serde(default)]
    pub lag_bytes: u64,
    /// For how long it has not come closer although it follows, in seconds; 0: it does.
    #[serde(default)]
    pub lagging_seconds: u64,
    /// How long the shards were held, in milliseconds.
    #[serde(default)]
    pub pause_ms: f64,
    /// Cutovers that were given up.
    #[serde(default)]
    pub attempts: u32,
    /// Why it failed, or why the last attempt did.
    #[serde(default)]
    pub error: String,
    /// Unix seconds.
    #[serde(default)]
    pub started: u64,
    /// Unix seconds; 0: it is not over.
    #[serde(default)]
    pub finished: u64,
    /// Whether there is a way back with what was written since: before the cutover what is expected of it, then `yes`, `soon`,
    /// or `no` and why.
    #[serde(default)]
    pub rollback: String,
    /// How far the source is behind the target, on the way back.
    #[serde(default)]
    pub reverse_lag_bytes: u64,
    /// How long the shards were held when they went back, in milliseconds.
    #[serde(default)]
    pub rollback_pause_ms: f64,
    /// What an operator wants, until it is done.
    #[serde(default)]
    pub wish: Option<Wish>,
    /// About how much memory its shards took when it was ordered.
    #[serde(default)]
    pub estimated_bytes: u64,
    /// About how long its copy was to take.
    #[serde(default)]
    pub estimated_seconds: u64,
    /// What an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether source and target were compared, or are to be.
    #[serde(default)]
    pub verify: Option<Verification>,
}

impl Move {
    /// Reads a record; none if it is something else.
    #[must_use]
    pub fn decode(document: &str) -> Option<Self> {
        serde_json::from_str::<Self>(document)
            .ok()
            .filter(|task| task.kind == "move")
    }

    /// The state as operators read it.
    #[must_use]
    pub fn encode_state(&self) -> String {
        serde_json::json!(self.state)
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether the shards have moved, and the source follows the target, or will again.
    #[must_use]
    pub fn is_reversible(&self) -> bool {
        self.state == State::Moved && matches!(self.rollback.as_str(), way_back::YES | way_back::SOON)
    }

    /// Why nothing of it can be compared, now or later; none: it can.
    pub(super) fn why_not_verified(&self) -> Option<String> {
        match self.state {
            State::Planned
            | State::Copying
            | State::Streaming
            | State::Verifying
            | State::Ready
            | State::CuttingOver => None,
            State::Moved if self.is_reversible() => None,
            State::Moved => Some(format!(
                "node '{}' does not follow any more; rollback: {}",
                self.source, self.rollback
            )),
            State::Finalized => Some(format!(
                "it is finalized, so that node '{}' has no copy",
                self.source
            )),
            State::RollingBack => Some("its shards are brought back".to_owned()),
            State::RolledBack => Some("its shards were brought back".to_owned()),
            State::Cancelled => Some("it was cancelled".to_owned()),
            State::Failed => Some("it has failed".to_owned()),
        }
    }

    /// Why the shards are not brought back although the source follows: it is known not to be the same.
    pub(super) fn why_not_back(&self) -> Option<String> {
        let verify = self.verify.as_ref()?;
        let is_known = verify.state == VerifyState::Different && verify.follower == self.source;
        is_known.then(|| {
            format!(
                "node '{}' is not the same as '{}' (differences: {}; the first: {}). SHARD VERIFY compares again; PRESHARD SHARD MOVE {} \
                 TO {} copies the shards anew",
                self.source,
                self.target,
                verify.mismatches,
                verify.found.first().map_or("", String::as_str),
                self.shards,
                self.source
            )
        })
    }

    fn is_verified_now(&self) -> bool {
        self.verify.as_ref().is_some_and(Verification::is_open)
    }

    /// What is answered to a wish in this state.
    pub(super) fn answer(&self, id: &str, wish: Wish) -> Answer {
        let refuse = |why: &str| Answer::Refuse(format!("task {id} {why}"));
        match (wish, self.state) {
            (Wish::Cancel, State::Cancelled)
            | (Wish::Finalize, State::Finalized)
            | (Wish::Rollback, State::RolledBack)
            | (Wish::Cutover, State::CuttingOver | State::Moved | State::Finalized) => Answer::Done,
            (Wish::Finalize, State::Moved) => Answer::Take,
            (Wish::Rollback, State::RollingBack) => Answer::Take,
            // Only the comparison is meant.
            (Wish::Cancel, State::Moved) if self.is_verified_now() => Answer::Take,
            (Wish::Rollback, State::Moved) if self.is_reversible() => self
                .why_not_back()
                .map_or(Answer::Take, |why| refuse(&format!("is not rolled back: {why}"))),
            (Wish::Rollback, State::Moved) => refuse(&format!(
                "cannot be rolled back: {}. To bring the shards back, move them: PRESHARD SHARD MOVE {} TO {}",
                self.rollback, self.shards, self.source
            )),
            (_, State::RollingBack) => refuse("is being rolled back"),
            (Wish::Finalize | Wish::Rollback, state) if !state.is_over() => {
                refuse("has not moved its shards")
            }
            (_, state) if state.is_over() => refuse(&format!("is over: {}", self.encode_state())),
            (Wish::Cutover, State::Ready) if self.verify.as_ref().is_some_and(|verify| !verify.permits()) => {
                let why = self
                    .verify
                    .as_ref()
                    .map(Verification::why_not)
                    .unwrap_or_default();
                refuse(&format!(
                    "does not cut over: {why}. SHARD VERIFY {id} compares again, TASK CANCEL {id} gives the move up"
                ))
            }
            (Wish::Cutover, _) if !self.manual => {
                refuse("cuts over by itself; only a MANUAL one waits for the word")
            }
            (_, _) => Answer::Take,
        }
    }

    /// The record.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Metrics, MetricsOptions, MigrationFigures};

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let task = Move {
            kind: "move".to_owned(),
            state: State::CuttingOver,
            wish: Some(Wish::Cancel),
            pause_ms: 2.25,
            ..Move::default()
        };
        assert_eq!(Move::decode(&task.encode()), Some(task.clone()));
        assert!(
            task.encode().contains(r#""state":"cutting-over""#),
            "{}",
            task.encode()
        );
        assert_eq!(Move::decode(r#"{"kind":"other"}"#), None);
        assert!(State::Moved.is_over() && !State::Ready.is_over());
        let old =
            r#"{"kind":"move","state":"moved","shards":"0","source":"a","target":"b","max_pause_ms":5}"#;
        assert!(!Move::decode(old).unwrap().is_reversible(), "of a version before");
    }

    #[test]
    fn every_state_is_a_label_of_the_metrics() {
        let states = [
            State::Planned,
            State::Copying,
            State::Streaming,
            State::Verifying,
            State::Ready,
            State::CuttingOver,
            State::Moved,
            State::Finalized,
            State::RollingBack,
            State::RolledBack,
            State::Cancelled,
            State::Failed,
        ];
        let words = states.map(|state| {
            let task = Move {
                state,
                ..Move::default()
            };
            task.encode_state()
        });
        let metrics = Metrics::new(MetricsOptions {
            workers: 1,
            command_names: Vec::new(),
            shards: 1,
            max_clients: 1,
        });
        let (metrics, tasks) = (metrics.unwrap(), words.clone().map(|word| (word, 1)).to_vec());
        metrics.facts().set_migration(move || MigrationFigures {
            tasks: tasks.clone(),
            ..MigrationFigures::default()
        });
        let page = metrics.gather_text();
        for word in words {
            let row = format!("preshard_migration_tasks{{state=\"{word}\"}} 1\n");
            assert!(page.contains(&row), "{word}");
        }
    }

    #[test]
    fn what_is_verified_can_be_cancelled_when_the_shards_have_moved_and_nothing_else() {
        let mut task = Move {
            state: State::Moved,
            rollback: way_back::YES.to_owned(),
            source: "a".to_owned(),
            verify: Some(Verification::default()),
            ..Move::default()
        };
        assert_eq!(task.answer("m1", Wish::Cancel), Answer::Take);
        assert_eq!(task.why_not_verified(), None);
        task.verify.iter_mut().for_each(|verify| verify.fail("why"));
        assert_eq!(
            task.answer("m1", Wish::Cancel),
            Answer::Refuse("task m1 is over: moved".to_owned())
        );
        task.rollback = way_back::no("x");
        assert_eq!(
            task.why_not_verified().unwrap(),
            "node 'a' does not follow any more; rollback: no (x)"
        );
        for (state, can) in [
            (State::Ready, true),
            (State::RollingBack, false),
            (State::Finalized, false),
            (State::Cancelled, false),
        ] {
            task.state = state;
            assert_eq!(task.why_not_verified().is_none(), can, "{state:?}");
        }
    }

    #[test]
    fn what_can_be_wished_depends_on_the_state() {
        let answer = |wish, state, rollback: &str| {
            let task = Move {
                state,
                shards: "0-3".to_owned(),
                source: "a".to_owned(),
                rollback: rollback.to_owned(),
                ..Move::default()
            };
            match task.answer("m1", wish) {
                Answer::Refuse(why) => why,
                other => format!("{other:?}"),
            }
        };
        for state in [State::Planned, State::Copying, State::Ready, State::CuttingOver] {
            assert_eq!(
                answer(Wish::Rollback, state, "expected"),
                "task m1 has not moved its shards"
            );
            assert_eq!(answer(Wish::Cancel, state, "expected"), "Take");
        }
        for rollback in ["yes", "soon"] {
            assert_eq!(answer(Wish::Rollback, State::Moved, rollback), "Take");
        }
        let refused = answer(Wish::Rollback, State::Moved, "no (why)");
        assert!(
            refused.ends_with("cannot be rolled back: no (why). To bring the shards back, move them: PRESHARD SHARD MOVE 0-3 TO a"),
            "{refused}"
        );
        assert_eq!(answer(Wish::Finalize, State::Moved, "yes"), "Take");
        assert_eq!(
            answer(Wish::Cancel, State::Moved, "yes"),
            "task m1 is over: moved"
        );
        assert_eq!(answer(Wish::Rollback, State::RollingBack, "yes"), "Take");
        for wish in [Wish::Cancel, Wish::Cutover, Wish::Finalize] {
            assert_eq!(
                answer(wish, State::RollingBack, "yes"),
                "task m1 is being rolled back"
            );
        }
        assert_eq!(answer(Wish::Rollback, State::RolledBack, ""), "Done");
        assert_eq!(
            answer(Wish::Finalize, State::RolledBack, ""),
            "task m1 is over: rolled-back"
        );
        assert_eq!(
            answer(Wish::Rollback, State::Finalized, ""),
            "task m1 is over: finalized"
        );
        assert_eq!(
            answer(Wish::Cutover, State::Streaming, ""),
            "task m1 cuts over by itself; only a MANUAL one waits for the word"
        );
    }
}
