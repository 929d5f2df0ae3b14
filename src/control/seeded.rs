//! Mistakes that the simulation of moves makes on purpose, to show that it would find them.
//!
//! Outside of tests [`makes`] is always `false` and costs nothing.

/// What somebody could have got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// A unit's user that was frozen gets its rights back.
    GrantsAgain,
    /// The applier's user is deleted behind the commit.
    SealsLate,
    /// What a leader does on a node does not depend on its term.
    IgnoresTerm,
    /// Another process of the source, or another history, counts as the one that was copied.
    IgnoresRun,
    /// Whichever server the target is now counts as the one that the copy was made to.
    IgnoresHolder,
    /// Whether it was committed is not asked of the store: what is known here counts.
    AsksNothing,
    /// The freeze deletes the unit's user.
    DeletesToFreeze,
    /// The freeze lets the unit read.
    FreezeReads,
    /// Who goes on with a way back lets its writer of before write on.
    LeavesWriters,
    /// Connections of proxies that have not said that they hold a unit stay open behind its freeze.
    LeavesStrangers,
}

/// Whether a mistake is to be made.
#[cfg(not(test))]
pub(crate) const fn makes(_mistake: Mistake) -> bool {
    false
}

#[cfg(test)]
pub(crate) use super::testing::makes;
