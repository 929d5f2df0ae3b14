//! What the leader does about records beside driving moves: children of groups begin and end, old records go.
//!
//! ```text
//!  records, topology, time ─▶ chores ─▶ writes and deletions, each over the revision that was read, in the leader's term
//! ```
//!
//! What is decided here is decided from one look at the records and may be decided again: who was slower has done nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::group::{Children, Group};
use super::task::{Move, State, Wish};
use crate::store::{Record, Revision};
use crate::topology::Topology;

/// Tasks that are kept when they are over. The store has room for more, which those that go on need.
pub(super) const FINISHED_MAX: usize = 100;

/// One thing to be done in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chore {
    /// A record is written over what was read.
    Write {
        id: String,
        document: String,
        over: Revision,
    },
    /// A record of old is deleted.
    Forget { id: String, over: Revision },
}

/// What is to be done now.
pub(super) fn chores(records: &BTreeMap<String, Arc<Record>>, topology: &Topology, now: u64) -> Vec<Chore> {
    let mut chores = Vec::new();
    for record in records.values() {
        let Some(before) = Group::decode(&record.document) else {
            continue;
        };
        let children = children_of(&record.id, records);
        let mut group = before.clone();
        let step = group.advance(&record.id, &children, topology, now);
        // Children first: whoever reads that a group is over finds them as they are.
        for (number, child) in step.begin {
            chores.push(Chore::Write {
                id: Group::child_id(&record.id, number),
                document: child.encode(),
                over: Revision::NONE,
            });
        }
        for (number, wish) in step.tell {
            chores.extend(told(&Group::child_id(&record.id, number), records, wish));
        }
        if group != before {
            chores.push(Chore::Write {
                id: record.id.clone(),
                document: group.encode(),
                over: record.revision,
            });
        }
    }
    chores.extend(old_records(records));
    chores
}

pub(super) fn children_of(id: &str, records: &BTreeMap<String, Arc<Record>>) -> Children {
    let mut children = Children::new();
    for record in records.values() {
        if let Some(number) = Group::number_of(id, &record.id)
            && let Some(child) = Move::decode(&record.document).filter(|child| child.parent == id)
        {
            children.insert(number, child);
        }
    }
    children
}

fn told(id: &str, records: &BTreeMap<String, Arc<Record>>, wish: Wish) -> Option<Chore> {
    let record = records.get(id)?;
    let child = Move::decode(&record.document)?;
    Some(Chore::Write {
        id: id.to_owned(),
        document: Move {
            wish: Some(wish),
            ..child
        }
        .encode(),
        over: record.revision,
    })
}

/// Tasks that are over beyond the newest ones. A move whose source still has its copy is not over yet.
fn old_records(records: &BTreeMap<String, Arc<Record>>) -> Vec<Chore> {
    // Until its outcome stands in its parent's record, a child is missed.
    let is_awaited = |id: &str, parent: &str| {
        let group = records
            .get(parent)
            .and_then(|record| Group::decode(&record.document));
        let number = Group::number_of(parent, id);
        group.is_some_and(|group| number.is_some_and(|number| group.is_open(number)))
    };
    let has_copies = |id: &str| {
        children_of(id, records)
            .values()
            .any(|child| child.state == State::Moved)
    };
    let mut finished: Vec<(u64, &Record)> = Vec::new();
    for record in records.values() {
        if let Some(task) = Move::decode(&record.document) {
            let is_over = task.state.is_over() && task.state != State::Moved;
            if is_over && !is_awaited(&record.id, &task.parent) {
                finished.push((task.finished, record));
            }
        } else if let Some(group) = Group::decode(&record.document)
            && group.state.is_over()
            && group.wish.is_none()
            && !has_copies(&record.id)
        {
            finished.push((group.finished, record));
        }
    }
    finished.sort_by(|(at, record), (other_at, other)| (at, &record.id).cmp(&(other_at, &other.id)));
    let too_many = finished.len().saturating_sub(FINISHED_MAX);
    finished
        .into_iter()
        .take(too_many)
        .map(|(_, record)| Chore::Forget {
            id: record.id.clone(),
            over: record.revision,
        })
        .collect()
}
