//! Moves of shards: what the proxy that leads counts, what all know of the tasks, and the families of both.

use std::sync::OnceLock;

use super::cell::{Cell, Histogram, HistogramTotal};
use super::family::{Family, LabelName, counter, gauge, histogram};
use super::labels::{By, Cutover, Direction, Label as _};

/// What is counted of moves, by several threads.
#[derive(Debug, Default)]
pub struct MigrationCells {
    /// Keys of snapshots that were written to targets.
    pub keys: Cell,
    /// Bytes of snapshots that were read from sources.
    pub bytes: Cell,
    /// Copies that began again.
    pub restarts: Cell,
    /// Cutovers, by where they lead and how they ended.
    pub cutovers: By<Direction, By<Cutover, Cell>>,
    /// How long shards were held by cutovers that moved them.
    pub pauses: By<Direction, Histogram>,
}

/// What the records of tasks say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationFigures {
    /// How many moves are in each state.
    pub tasks: Vec<(String, u64)>,
    /// How far the targets are behind, in bytes of the sources' streams.
    pub lag_bytes: u64,
    /// Moves whose target does not come closer.
    pub lagging: u64,
}

/// Reads the figures.
#[derive(Default)]
pub(super) struct MigrationSource(OnceLock<Box<dyn Fn() -> MigrationFigures + Send + Sync>>);

impl std::fmt::Debug for MigrationSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MigrationSource")
    }
}

impl MigrationSource {
    /// Only the first call counts.
    pub(super) fn set(&self, read: impl Fn() -> MigrationFigures + Send + Sync + 'static) {
        drop(self.0.set(Box::new(read)));
    }

    pub(super) fn read(&self) -> MigrationFigures {
        self.0.get().map(|read| read()).unwrap_or_default()
    }
}

const STATE: LabelName = super::family::fixed("state", || {
    vec![
        ("planned", "waits for its nodes"),
        ("copying", "the snapshot is copied"),
        ("streaming", "the target follows the source"),
        ("verifying", "source and target are compared"),
        ("ready", "waits for the word to cut over"),
        ("cutting-over", "the shards are on their way"),
        (
            "moved",
            "the target serves them, and the source still has its copy",
        ),
        ("finalized", "the source's copy is gone"),
        ("rolling-back", "the shards are on their way back"),
        ("rolled-back", "the source serves them again"),
        ("cancelled", "stopped by an operator"),
        ("failed", "given up; nothing has moved"),
    ]
});

const DIRECTION: LabelName = super::family::fixed("direction", || {
    Direction::ALL
        .iter()
        .map(|direction| (direction.name(), direction.meaning()))
        .collect()
});

const OUTCOME: LabelName = super::family::fixed("outcome", || {
    Cutover::ALL
        .iter()
        .map(|outcome| (outcome.name(), outcome.meaning()))
        .collect()
});

/// The families of moves.
pub(super) static FAMILIES: &[Family] = &[
    gauge(
        "preshard_migration_tasks",
        &[STATE],
        "Moves by state, as the store says: the same on every proxy. A task of many moves counts by its parts.",
        |s, out| {
            let figures = s.facts.migration();
            let super::family::Values::Fixed(states) = STATE.values else {
                return;
            };
            for (state, _) in states() {
                let known = figures.tasks.iter().find(|(name, _)| name == state);
                out.count(&[state], known.map_or(0, |(_, count)| *count));
            }
        },
    ),
    gauge(
        "preshard_migration_lag_bytes",
        &[],
        "Bytes of their sources' streams that the targets of all moves under way have not applied, as the store says: the same on \
         every proxy.",
        |s, out| out.count(&[], s.facts.migration().lag_bytes),
    ),
    gauge(
        "preshard_migration_lagging",
        &[],
        "Moves whose target follows and has not come closer to its source for a minute or longer, as the store says: the same on \
         every proxy. Writers are faster than the copy; the warnings in `TASK STATUS` say what can be done.",
        |s, out| out.count(&[], s.facts.migration().lagging),
    ),
    counter(
        "preshard_migration_keys_total",
        &[],
        "Keys of snapshots that this proxy wrote to targets of moves.",
        |s, out| out.count(&[], s.migration().keys.load()),
    ),
    counter(
        "preshard_migration_bytes_total",
        &[],
        "Bytes of snapshots that this proxy read from sources of moves, those of other shards included.",
        |s, out| out.count(&[], s.migration().bytes.load()),
    ),
    counter(
        "preshard_migration_copy_restarts_total",
        &[],
        "Copies of moves that began again, because something was not as it should be.",
        |s, out| out.count(&[], s.migration().restarts.load()),
    ),
    counter(
        "preshard_migration_cutovers_total",
        &[DIRECTION, OUTCOME],
        "Cutovers that this proxy tried, those of rollbacks too, by how they ended.",
        |s, out| {
            for &direction in Direction::ALL {
                for &outcome in Cutover::ALL {
                    let cutovers = s.migration().cutovers[direction][outcome].load();
                    out.count(&[direction.name(), outcome.name()], cutovers);
                }
            }
        },
    ),
    histogram(
        "preshard_migration_pause_seconds",
        &[DIRECTION],
        "How long shards were held by cutovers that moved them. Meanwhile their requests wait: `preshard_held_requests`.",
        |s, out| {
            for &direction in Direction::ALL {
                let mut total = HistogramTotal::default();
                s.migration().pauses[direction].add_to(&mut total);
                out.histogram(&[direction.name()], &total);
            }
        },
    ),
];
