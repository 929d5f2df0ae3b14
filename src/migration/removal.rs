//! Whether a node may leave: not while a task needs it, even if no shards live there.

use super::group::Group;
use super::mover::Mover;
use super::task::{Move, State};
use crate::store::Record;

impl Mover {
    /// Why a node that has no shards must stay for now, with what can be done; none: it may leave.
    ///
    /// # Errors
    /// The store gives no answer.
    pub async fn why_stays(&self, node: &str) -> Result<Option<String>, String> {
        let records = self.fleet.store().records().await;
        let records = records.map_err(|error| error.to_string())?;
        Ok(why_stays(node, &records))
    }
}

fn why_stays(node: &str, records: &[Record]) -> Option<String> {
    if let Some((id, what)) = records
        .iter()
        .find_map(|record| Some((record.id.as_str(), need_of(node, record)?)))
    {
        return Some(format!("node '{node}' {}", what.replace("{id}", id)));
    }
    let followed = records.iter().filter(|record| {
        let task = Move::decode(&record.document);
        task.is_some_and(|task| task.source == node && task.is_reversible())
    });
    let followed: Vec<&str> = followed.map(|record| record.id.as_str()).collect();
    let first = followed.first()?;
    Some(format!(
        "node '{node}' follows shards that have moved away, so that they can come back ({}); say TASK FINALIZE {first} first, or wait \
         until their time is over",
        followed.join(", ")
    ))
}

/// What a task that is not over has to do with a node, as the rest of a sentence.
fn need_of(node: &str, record: &Record) -> Option<&'static str> {
    const TARGET: &str = "gets shards by task {id}; say TASK CANCEL {id} first, or wait until it is over";
    const ENDS: &str =
        "is part of task {id}, which has just moved its shards; say it again when TASK STATUS {id} says so";
    const BACK: &str = "gets shards back by task {id}; wait until TASK STATUS {id} says how that has ended";
    if let Some(group) = Group::decode(&record.document) {
        let mut chunks = group.open_chunks();
        let is_target = !group.state.is_over() && chunks.any(|chunk| chunk.target == node);
        return is_target.then_some(TARGET);
    }
    let task = Move::decode(&record.document).filter(|task| !task.state.is_over())?;
    let is_back = task.state == State::RollingBack;
    match (task.source == node, task.target == node) {
        (true, _) if is_back => Some(BACK),
        (true, _) => Some(ENDS),
        (_, true) if is_back => Some(ENDS),
        (_, true) => Some(TARGET),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::migration::task::way_back;
    use crate::store::Revision;

    fn record(id: &str, document: String) -> Record {
        Record {
            id: id.to_owned(),
            document,
            revision: Revision::NONE,
        }
    }

    fn told(node: &str, state: State, rollback: &str) -> String {
        let task = Move {
            kind: "move".to_owned(),
            source: "a".to_owned(),
            target: "b".to_owned(),
            state,
            rollback: rollback.to_owned(),
            ..Move::default()
        };
        why_stays(node, &[record("m1", task.encode())]).unwrap_or_default()
    }

    #[test]
    fn a_node_that_a_task_needs_stays_and_the_operator_is_told_what_to_do() {
        for state in [
            State::Planned,
            State::Copying,
            State::Streaming,
            State::Verifying,
            State::Ready,
            State::CuttingOver,
        ] {
            assert_eq!(
                told("b", state, "expected"),
                "node 'b' gets shards by task m1; say TASK CANCEL m1 first, or wait until it is over"
            );
            assert!(told("a", state, "expected").contains("say it again"), "{state:?}");
        }
        assert_eq!(
            told("a", State::RollingBack, "yes"),
            "node 'a' gets shards back by task m1; wait until TASK STATUS m1 says how that has ended"
        );
        assert!(told("b", State::RollingBack, "yes").contains("say it again"));
        for rollback in [way_back::YES, way_back::SOON] {
            let told = told("a", State::Moved, rollback);
            assert!(told.contains("say TASK FINALIZE m1 first"), "{told}");
        }
    }

    #[test]
    fn a_node_that_no_task_needs_may_leave() {
        for (node, state, rollback) in [
            ("c", State::Copying, "expected"),
            ("a", State::Moved, "no (why)"),
            ("b", State::Moved, way_back::YES),
            ("a", State::RolledBack, ""),
            ("b", State::RolledBack, ""),
            ("a", State::Finalized, "no (why)"),
            ("b", State::Cancelled, ""),
            ("b", State::Failed, ""),
        ] {
            assert_eq!(told(node, state, rollback), "", "{node} {state:?}");
        }
    }

    #[test]
    fn what_a_plan_will_move_to_a_node_counts_until_it_is_settled() {
        let ways = vec![("a".to_owned(), "b".to_owned(), vec![ShardId(0)])];
        let mut group = Group::in_chunks("drain", "a", ways);
        let of = |group: &Group, node: &str| why_stays(node, &[record("d1", group.encode())]);
        assert!(of(&group, "b").unwrap().contains("TASK CANCEL d1"));
        assert_eq!(of(&group, "a"), None, "its shards are looked at, and the moves");
        group.settle(0, crate::migration::outcome::Outcome::Moved);
        assert_eq!(of(&group, "b"), None);
        let ways = vec![("a".to_owned(), "b".to_owned(), vec![ShardId(0)])];
        let group = Group {
            state: State::Cancelled,
            ..Group::in_chunks("drain", "a", ways)
        };
        assert_eq!(of(&group, "b"), None);
    }
}
