//! Clients: each sends pipelines to one proxy, slowly while nothing happens and fast while something is on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::judge::{Ask, list_of};
use super::proxy::Outcome;
use super::wire::some;
use super::world::{World, lock};
use crate::ids::ShardId;

const SLOW_MS: u64 = 2_500;
const FAST_MS: u64 = 6;
const HURRY_MS: u64 = 50;
/// Clients are fast for so long when the topology or the state of a task has changed.
const EXCITED: Duration = Duration::from_millis(25);

/// Client `client` of proxy `who`, until the world is over.
pub(super) async fn live(world: Arc<World>, who: usize, client: usize, shards: u16) {
    let mut rng = world.rng("client", client);
    let (mut next, mut turn) = (0, 0);
    let mut seen: BTreeMap<u16, i64> = BTreeMap::new();
    while !world.over.load(Relaxed) {
        let news = world.store.stored.notified();
        if world.store.stored_ago() < EXCITED {
            sleep(some(&mut rng, FAST_MS)).await;
        } else if world.hurries.load(Relaxed) {
            sleep(some(&mut rng, HURRY_MS)).await;
        } else if timeout(some(&mut rng, SLOW_MS), news).await.is_ok() {
            continue;
        }
        let Some(worker) = lock(&world.workers)[who].clone() else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // One after the other, now and then twice.
        turn += u16::from(rng.u8(0..4) > 0);
        let shard = turn % shards;
        let mut waiting = Vec::new();
        for _ in 0..rng.usize(1..=4) {
            let (ask, words) = match rng.u8(0..4) {
                0..=1 => {
                    next += 1;
                    (
                        Ask::Push(next),
                        vec!["RPUSH".to_owned(), list_of(client), next.to_string()],
                    )
                }
                2 => (Ask::Incr, vec!["INCR".to_owned(), "counter".to_owned()]),
                _ => (Ask::Get, vec!["GET".to_owned(), "counter".to_owned()]),
            };
            let words = words.into_iter().map(String::into_bytes).collect();
            let asked = world.judge.asked(client, shard, ask);
            waiting.push((asked, worker.submit(ShardId(shard), words)));
        }
        drop(worker);
        for (asked, replied) in waiting {
            // The proxy is gone.
            let outcome = replied.await.unwrap_or(Outcome::Uncertain);
            world
                .judge
                .told(&world, asked, &outcome, seen.entry(shard).or_default());
        }
    }
    world.gone.fetch_add(1, Relaxed);
}
