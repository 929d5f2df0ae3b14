//! `SHARD VERIFY`: an order that any proxy takes, and that the leader carries out.

use super::super::group::Group;
use super::super::mover::Mover;
use super::super::task::{Move, State};
use super::record::{Sample, Verification};
use crate::ids::ShardId;
use crate::store::{Record, StoreError};
use crate::topology::codec::shard_list;

/// What is to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// A task, by its id: a move, or all moves of a task of many.
    Task(String),
    /// Whatever moves these shards.
    Shards(Vec<ShardId>),
}

/// Moves of a task that an error names.
const CHILDREN_TOLD: usize = 3;

/// Times that the leader may write a record just before we do.
const RACES_MAX: usize = 20;

impl Mover {
    /// Orders that moves are verified, before their cutover or while they can be rolled back. Returns their ids.
    ///
    /// # Errors
    /// There is nothing to compare, or some of it cannot be just now, or no store. Nothing was ordered, unless something changed at the same
    /// time.
    pub async fn verify(&self, what: &Verified, sample: Sample) -> Result<Vec<String>, String> {
        let records = self
            .fleet()
            .store()
            .records()
            .await
            .map_err(|error| error.to_string())?;
        let ids = meant(&records, what, self.topology().total_shards())?;
        for id in &ids {
            self.order_verification(id, sample).await?;
        }
        Ok(ids)
    }

    async fn order_verification(&self, id: &str, sample: Sample) -> Result<(), String> {
        for _ in 0..RACES_MAX {
            let store = self.fleet().store();
            let record = store.record(id).await.map_err(|error| error.to_string())?;
            let task = record.as_ref().and_then(|record| Move::decode(&record.document));
            let (Some(record), Some(mut task)) = (record, task) else {
                return Err(format!("there is no move '{id}'"));
            };
            if let Some(why) = why_not(&task) {
                return Err(format!("task {id} {why}"));
            }
            task.verify = Some(Verification::asked(sample));
            match store.put_record(id, &task.encode(), record.revision, None).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Changed { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!(
            "the record of task {id} is written all the time; try again"
        ))
    }
}

/// The moves that are meant: the one of this name, those of a task of many moves, or those of these shards.
fn meant(records: &[Record], what: &Verified, total: u16) -> Result<Vec<String>, String> {
    let moves: Vec<(&str, Move)> = records
        .iter()
        .filter_map(|record| Some((record.id.as_str(), Move::decode(&record.document)?)))
        .collect();
    let can_be = |task: &Move| task.why_not_verified().is_none();
    let found: Vec<&(&str, Move)> = match what {
        Verified::Task(id) if is_group(records, id) => {
            let children = moves.iter().filter(|(_, task)| task.parent == *id);
            let (can, cannot): (Vec<_>, Vec<_>) = children.partition(|(_, task)| can_be(task));
            if can.is_empty() {
                return Err(nothing_of(id, &cannot));
            }
            can
        }
        Verified::Task(id) => moves.iter().filter(|(name, _)| name == id).collect(),
        Verified::Shards(shards) => {
            let of_these = |task: &Move| {
                let moved = shard_list(&task.shards, total).unwrap_or_default();
                can_be(task) && moved.iter().any(|shard| shards.contains(shard))
            };
            moves.iter().filter(|(_, task)| of_these(task)).collect()
        }
    };
    if found.is_empty() {
        return Err(match what {
            Verified::Task(id) => format!("there is no move '{id}'"),
            Verified::Shards(_) => {
                "none of these shards is being moved, or has moved and can be rolled back: there is nothing to compare them with"
                    .to_owned()
            }
        });
    }
    if let Some((id, why)) = found.iter().find_map(|(id, task)| Some((id, why_not(task)?))) {
        return Err(format!("task {id} {why}"));
    }
    Ok(found.into_iter().map(|(id, _)| (*id).to_owned()).collect())
}

fn is_group(records: &[Record], id: &str) -> bool {
    let mut records = records.iter();
    records.any(|record| record.id == id && Group::decode(&record.document).is_some())
}

/// Why nothing of a task of many moves can be compared, and what to do.
fn nothing_of(id: &str, children: &[&(&str, Move)]) -> String {
    if children.is_empty() {
        return format!(
            "task {id} has no move that has begun, or whose record is still kept: there is nothing to compare; TASK STATUS {id} tells how \
             far it is"
        );
    }
    let told = children.iter().take(CHILDREN_TOLD).map(|(name, task)| {
        let why = task.why_not_verified().unwrap_or_default();
        format!("{name}: {why}")
    });
    let told = told.collect::<Vec<_>>().join("; ");
    let more = match children.len().saturating_sub(CHILDREN_TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!(
        "none of the moves of task {id} can be compared any more ({told}{more}); to compare shards, move them with SHARD MOVE … VERIFY"
    )
}

fn why_not(task: &Move) -> Option<String> {
    if let Some(why) = task.why_not_verified() {
        return Some(format!("cannot be verified: {why}"));
    }
    if task.state == State::CuttingOver {
        return Some("is just cutting over".to_owned());
    }
    let open = task.verify.as_ref().is_some_and(Verification::is_open);
    open.then(|| "is being verified already; see its TASK STATUS".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::task::way_back;
    use crate::store::Revision;

    fn record(id: &str, document: String) -> Record {
        Record {
            id: id.to_owned(),
            document,
            revision: Revision(1),
        }
    }

    fn child(id: &str, state: State, shards: &str) -> Record {
        let task = Move {
            kind: "move".to_owned(),
            parent: "d1".to_owned(),
            state,
            shards: shards.to_owned(),
            source: "a".to_owned(),
            target: "b".to_owned(),
            rollback: way_back::YES.to_owned(),
            ..Move::default()
        };
        record(id, task.encode())
    }

    fn drain() -> Record {
        let shards = (0..4).map(ShardId).collect();
        let group = Group::in_chunks("drain", "a", vec![("a".to_owned(), "b".to_owned(), shards)]);
        record("d1", group.encode())
    }

    fn of(records: &[Record], what: &Verified) -> Result<Vec<String>, String> {
        meant(records, what, 12)
    }

    #[test]
    fn the_id_of_a_drain_means_all_of_its_moves_that_can_be_compared() {
        let mut records = vec![
            drain(),
            child("d1-0", State::Moved, "0"),
            child("d1-1", State::Finalized, "1"),
            child("d1-2", State::Ready, "2"),
        ];
        let whole = Verified::Task("d1".to_owned());
        assert_eq!(of(&records, &whole).unwrap(), ["d1-0", "d1-2"]);
        assert_eq!(
            of(&records, &Verified::Task("d1-2".to_owned())).unwrap(),
            ["d1-2"]
        );
        let some = Verified::Shards(vec![ShardId(1), ShardId(2)]);
        assert_eq!(of(&records, &some).unwrap(), ["d1-2"]);
        records[3] = child("d1-2", State::CuttingOver, "2");
        assert_eq!(
            of(&records, &whole).unwrap_err(),
            "task d1-2 is just cutting over",
            "nothing is ordered of the others either"
        );
    }

    #[test]
    fn a_drain_of_which_nothing_can_be_compared_says_why_and_what_to_do() {
        let whole = Verified::Task("d1".to_owned());
        let why = of(&[drain()], &whole).unwrap_err();
        assert!(why.contains("TASK STATUS d1"), "{why}");
        let over = (0..5).map(|number| child(&format!("d1-{number}"), State::Cancelled, "0"));
        let why = of(&std::iter::once(drain()).chain(over).collect::<Vec<_>>(), &whole).unwrap_err();
        assert!(
            why.contains("d1-0: it was cancelled; d1-1") && why.contains("and 2 more"),
            "{why}"
        );
        assert!(why.contains("SHARD MOVE"), "{why}");
        let unknown = Verified::Task("m9".to_owned());
        assert_eq!(of(&[drain()], &unknown).unwrap_err(), "there is no move 'm9'");
    }
}
