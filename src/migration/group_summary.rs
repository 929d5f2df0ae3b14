//! What operators are shown of a task of many moves: it and its children together.

use super::group::{Group, Outcome};
use super::task::{Move, State, Wish};

/// What is shown of a group and its children together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// That of the child that is farthest, while some are under way.
    pub state: State,
    /// Children in all, begun or not.
    pub children: usize,
    /// Those that have moved their shards.
    pub moved: usize,
    /// Those that have failed.
    pub failed: usize,
    /// Those that were cancelled, or not begun any more.
    pub cancelled: usize,
    /// Those whose shards have gone back.
    pub rolled_back: usize,
    /// Keys copied.
    pub keys: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// How far targets are behind.
    pub lag_bytes: u64,
}

impl Group {
    /// It and its children together.
    #[must_use]
    pub fn summary<'a>(&self, children: impl Iterator<Item = &'a Move>) -> Summary {
        let mut summary = Summary {
            state: self.state,
            children: self.outcomes.len(),
            moved: self.count(Outcome::Moved),
            failed: self.count(Outcome::Failed),
            cancelled: self.count(Outcome::Cancelled),
            rolled_back: self.count(Outcome::RolledBack),
            keys: self.keys,
            bytes: self.bytes,
            lag_bytes: 0,
        };
        if self.wish == Some(Wish::Rollback) {
            summary.state = State::RollingBack;
        }
        for child in children.filter(|child| !child.state.is_over()) {
            summary.keys += child.keys;
            summary.bytes += child.bytes;
            summary.lag_bytes += child.lag_bytes;
            if !self.state.is_over() && rank(child.state) > rank(summary.state) {
                summary.state = child.state;
            }
        }
        summary
    }
}

/// How far a move is.
const fn rank(state: State) -> u8 {
    match state {
        State::Planned => 0,
        State::Copying => 1,
        State::Streaming => 2,
        State::Verifying => 3,
        State::Ready => 4,
        State::CuttingOver => 5,
        // They are counted by themselves.
        State::Moved
        | State::Finalized
        | State::RollingBack
        | State::RolledBack
        | State::Cancelled
        | State::Failed => 0,
    }
}
