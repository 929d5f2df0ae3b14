//! Which keys are compared: all, by `SCAN`, or some by chance. They are looked for a little ahead of those who read them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::plan::Endpoint;
use super::super::probe::connect;
use super::super::reading::{Asking, Key, look, text};
use super::batch::{BATCH_KEYS, Batch, Batcher};
use crate::control::{AskError, NodeClient};
use crate::ids::DbIndex;

/// Batches that wait.
const AHEAD: usize = 2;

/// Batches of keys, one after the other. It ends with its handle.
#[derive(Debug)]
pub(super) struct Feed {
    batches: mpsc::Receiver<Result<Batch, AskError>>,
    _task: JoinSet<()>,
}

/// A database by its name on the source, its name on the node that is asked, and how many keys it has there.
type Place = (DbIndex, DbIndex, u64);

impl Feed {
    /// `by_chance`: so many keys of all of them.
    pub(super) fn start(
        node: Endpoint,
        silence: Duration,
        places: Vec<Place>,
        by_chance: Option<u64>,
    ) -> Self {
        let (sender, batches) = mpsc::channel(AHEAD);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let fed = async {
                let mut client = connect(&node, silence).await?;
                match by_chance {
                    Some(keys) => chance(&mut client, &places, keys, &sender).await,
                    None => scan(&mut client, &places, &sender).await,
                }
            };
            if let Err(error) = fed.await {
                // Whoever has left does not want to know.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self { batches, _task: task }
    }

    /// The next batch; none: that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, AskError> {
        self.batches.recv().await.transpose()
    }
}

type Batches = mpsc::Sender<Result<Batch, AskError>>;

async fn scan(client: &mut NodeClient, places: &[Place], out: &Batches) -> Result<(), AskError> {
    for (db, here, _) in places {
        let mut batcher = Batcher::of(*db);
        let (mut cursor, mut keys) = (Some(b"0".to_vec()), Vec::new());
        // Sizes are asked for with the next names.
        while cursor.is_some() || !keys.is_empty() {
            let looked = look(client, *here, cursor.as_deref(), BATCH_KEYS, &keys).await?;
            let (scanned, sizes) = looked;
            for (key, size) in keys.drain(..).zip(sizes) {
                if !give(batcher.push(key, size), out).await {
                    return Ok(());
                }
            }
            cursor = None;
            if let Some((next, found)) = scanned {
                cursor = (next != b"0").then_some(next);
                keys = found;
            }
        }
        if !give(batcher.rest(), out).await {
            return Ok(());
        }
    }
    Ok(())
}

async fn chance(client: &mut NodeClient, places: &[Place], keys: u64, out: &Batches) -> Result<(), AskError> {
    let all: u64 = places.iter().map(|(_, _, keys)| *keys).sum();
    // What rounding has left over of the databases before.
    let (mut seen, mut asked) = (0, 0);
    for (db, here, of_db) in places {
        let mut batcher = Batcher::of(*db);
        seen += of_db;
        let due = part(keys, seen, all);
        while asked < due {
            let now = (due - asked).min(BATCH_KEYS as u64);
            asked += now;
            let mut names = Asking::plainly(*here);
            (0..now).for_each(|_| names.push(&[b"RANDOMKEY"]));
            let names = names.of(client).await?;
            let names = names.all().into_iter().filter_map(|name| text(name).transpose());
            let mut names: Vec<Key> = names
                .map(|name| name.map(<[u8]>::to_vec))
                .collect::<Result<_, _>>()?;
            names.sort_unstable();
            names.dedup();
            let (_, sizes) = look(client, *here, None, 0, &names).await?;
            for (key, size) in names.into_iter().zip(sizes) {
                if !give(batcher.push(key, size), out).await {
                    return Ok(());
                }
            }
        }
        if !give(batcher.rest(), out).await {
            return Ok(());
        }
    }
    Ok(())
}

/// `keys` × `seen` / `all`
pub(super) fn part(keys: u64, seen: u64, all: u64) -> u64 {
    let part = u128::from(keys) * u128::from(seen) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(keys)
}

/// Passes a batch on, if it is one. False: nobody takes them any more.
async fn give(batch: Option<Batch>, out: &Batches) -> bool {
    match batch {
        Some(batch) => out.send(Ok(batch)).await.is_ok(),
        None => true,
    }
}
