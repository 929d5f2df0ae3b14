//! The way back of a task of many moves: child by child, the one that has moved last first.
//!
//! ```text
//!  ROLLBACK ─▶ the last child is told ─▶ rolled-back ─▶ the next one … ─▶ none is left: rolled-back
//!                                   └──▶ it cannot be, or was given up: the rest stays where it is, and `error` says which and why
//! ```
//!
//! Children have no shard in common, so each goes back by itself. Which one was told stands in the record, so whoever leads goes on.

use super::group::{Children, Group, Step};
use super::outcome::Outcome;
use super::task::{Answer, Move, State, Wish};

/// What has become of the child that was told.
enum Told {
    UnderWay,
    Back,
    /// It stays where it is: why.
    Stays(String),
}

impl Group {
    /// Takes over which children are back, and tells the next one if that is wished.
    pub(super) fn go_back(&mut self, id: &str, children: &Children, step: &mut Step) {
        for (&number, _) in children
            .iter()
            .filter(|(_, child)| child.state == State::RolledBack)
        {
            self.settle(number, Outcome::RolledBack);
        }
        if self.wish != Some(Wish::Rollback) {
            return;
        }
        if let Some(number) = self.told_back {
            match self.told(id, number, children.get(&number)) {
                Told::UnderWay => return,
                Told::Back => self.told_back = None,
                Told::Stays(why) => return self.stays(&why),
            }
        }
        let Some((number, child)) = next_back(children) else {
            (self.wish, self.state) = (None, State::RolledBack);
            return;
        };
        let name = Self::child_id(id, number);
        match (child.state, child.answer(&name, Wish::Rollback)) {
            (State::RollingBack, _) => self.told_back = Some(number),
            (_, Answer::Refuse(why)) => self.stays(&why),
            (_, Answer::Done | Answer::Take) => {
                self.told_back = Some(number);
                if child.wish != Some(Wish::Rollback) {
                    step.tell.push((number, Wish::Rollback));
                }
            }
        }
    }

    fn told(&self, id: &str, number: usize, child: Option<&Move>) -> Told {
        let name = Self::child_id(id, number);
        match child {
            _ if self.is(number, Outcome::RolledBack) => Told::Back,
            Some(child) if child.state == State::RollingBack => Told::UnderWay,
            Some(child) if child.state == State::Moved => match child.wish {
                Some(Wish::Rollback) => Told::UnderWay,
                Some(Wish::Finalize) => Told::Stays(format!("task {name} is being finalized")),
                Some(Wish::Cutover | Wish::Cancel) | None => {
                    Told::Stays(format!("task {name}: {}", child.error))
                }
            },
            Some(child) => Told::Stays(format!("task {name} is over: {}", child.encode_state())),
            None => Told::Stays(format!("task {name} is gone")),
        }
    }

    /// Nothing more goes back.
    fn stays(&mut self, why: &str) {
        (self.wish, self.told_back) = (None, None);
        self.error = format!(
            "{} of its moves are rolled back, {} are not. {why}. Others can be rolled back one by one",
            self.count(Outcome::RolledBack),
            self.count(Outcome::Moved)
        );
    }

    /// The record with the wish in it that all go back; none if they are.
    pub(super) fn wished_back(mut self, id: &str, children: &Children) -> Result<Option<Self>, String> {
        let refuse = |why: &str| Err(format!("task {id} {why}"));
        match (self.wish, self.state) {
            (Some(Wish::Rollback), _) => return Ok(Some(self)),
            (_, State::RolledBack) => return Ok(None),
            (_, state) if !state.is_over() => {
                return refuse("goes on; TASK CANCEL stops it, then what has moved can be rolled back");
            }
            (Some(Wish::Finalize), _) => return refuse("is being finalized"),
            (_, _) => {}
        }
        let Some((number, child)) = next_back(children) else {
            return refuse("has no move that can be rolled back");
        };
        if let Answer::Refuse(why) = child.answer(&Self::child_id(id, number), Wish::Rollback) {
            return Err(why);
        }
        self.wish = Some(Wish::Rollback);
        self.error.clear();
        Ok(Some(self))
    }

    /// What is said when a wish is not there any more.
    pub(super) fn after(&self, wish: Wish) -> Result<(), String> {
        match wish {
            Wish::Rollback if self.state != State::RolledBack => Err(self.error.clone()),
            Wish::Rollback | Wish::Finalize | Wish::Cutover | Wish::Cancel => Ok(()),
        }
    }
}

/// The child that goes back next: one that does already, else the one that has moved last.
fn next_back(children: &Children) -> Option<(usize, &Move)> {
    let moved = children
        .iter()
        .filter(|(_, child)| matches!(child.state, State::Moved | State::RollingBack | State::Finalized));
    let next =
        moved.max_by_key(|(number, child)| (child.state == State::RollingBack, child.finished, **number));
    next.map(|(number, child)| (*number, child))
}

#[cfg(test)]
#[path = "group_back_tests.rs"]
mod tests;
