//! How the chunks of a group are, as letters of its record.

use super::task::State;

/// How a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Open,
    Moved,
    Failed,
    Cancelled,
    RolledBack,
}

impl Outcome {
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Open => '.',
            Self::Moved => 'm',
            Self::Failed => 'f',
            Self::Cancelled => 'c',
            Self::RolledBack => 'b',
        }
    }

    /// What has become of a chunk, by the state of its child.
    pub(super) const fn of_child(state: State) -> Self {
        match state {
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            // What was brought back had moved: it is not begun again.
            State::Moved | State::Finalized | State::RolledBack => Self::Moved,
            State::Planned
            | State::Copying
            | State::Streaming
            | State::Verifying
            | State::Ready
            | State::CuttingOver
            | State::RollingBack => Self::Open,
        }
    }

    pub(super) const fn of(letter: char) -> Self {
        match letter {
            'm' => Self::Moved,
            'f' => Self::Failed,
            'c' => Self::Cancelled,
            'b' => Self::RolledBack,
            _ => Self::Open,
        }
    }
}
