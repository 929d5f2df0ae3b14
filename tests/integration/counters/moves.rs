//! M1 and M2 without a database behind: shards change their node while counters are counted, taken and confirmed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::{Batch, PATIENCE, batches, take};
use crate::harness::{Client, Proxy, Reply, key_in, small, wait_for};
use crate::moving;

/// Between two requests of who counts.
const PACE: Duration = Duration::from_millis(2);

fn move_shards(admin: &mut Client, shards: &str, target: &str) {
    let row = moving::move_shards(admin, shards, target);
    moving::tell(admin, "FINALIZE", &moving::field(&row, "task"));
}

/// Counts until it is told to stop; gives what was acknowledged, by member.
fn count(proxy: &Proxy, number: usize, stop: &AtomicBool) -> BTreeMap<String, i64> {
    let mut client = if number.is_multiple_of(2) {
        proxy.client()
    } else {
        proxy.client3()
    };
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut counted: BTreeMap<String, i64> = BTreeMap::new();
    while !stop.load(Relaxed) {
        thread::park_timeout(PACE);
        let members: Vec<String> = (0..random.usize(1..20))
            .map(|_| format!("m{}", random.u32(..200)))
            .collect();
        let replies = if random.bool() {
            for member in &members {
                client.command(&["COUNTER.INCR", "events", member]);
            }
            members.iter().map(|_| client.reply()).collect()
        } else {
            let mut words = vec!["COUNTER.MINCR", "events"];
            members
                .iter()
                .for_each(|member| words.extend([member.as_str(), "1"]));
            client.call(&words).items()
        };
        for (member, reply) in members.into_iter().zip(replies) {
            match reply {
                Reply::Int(_) => *counted.entry(member).or_default() += 1,
                // A shard that was held for longer than `hold_max`: it has not run.
                Reply::Error(error) if error.starts_with("TRYAGAIN") => {}
                other => panic!("{other:?}"),
            }
        }
    }
    counted
}

/// Takes and confirms until all is stopped and nothing is left; gives what was confirmed, by member.
fn flush(proxy: &Proxy, number: u64, stop: &AtomicBool) -> BTreeMap<String, i64> {
    let mut client = proxy.client3();
    let mut random = fastrand::Rng::with_seed(number);
    let mut written: BTreeMap<String, i64> = BTreeMap::new();
    let mut known: BTreeMap<String, Batch> = BTreeMap::new();
    loop {
        let stopped = stop.load(Relaxed);
        let reply = client.ask("COUNTER.TAKE events COUNT 50 LEASE 2000");
        if reply.error().is_some_and(|error| error.starts_with("TRYAGAIN")) {
            continue;
        }
        let taken = batches(&reply);
        if taken.is_empty() && stopped {
            let pending = client.ask("COUNTER.PENDING events");
            let left = |name: &str| pending.field(name).unwrap().int();
            if pending.error().is_none() && left("members") + left("leased") == 0 {
                return written;
            }
        }
        for batch in taken {
            if let Some(before) = known.get(&batch.id) {
                assert_eq!(
                    before.entries, batch.entries,
                    "a batch does not change on its way"
                );
            }
            // Some are forgotten, and come again.
            if random.u32(..10) > 0 {
                let confirmed = wait_for("it is confirmed", PATIENCE, || {
                    let reply = client.ask(&format!("COUNTER.ACK events {}", batch.id));
                    match reply {
                        Reply::Int(count) => Some(count),
                        Reply::Error(error) if error.starts_with("TRYAGAIN") => None,
                        other => panic!("{other:?}"),
                    }
                });
                if confirmed == 1 {
                    for (member, delta) in &batch.entries {
                        *written.entry(member.clone()).or_default() += delta;
                    }
                }
            }
            known.insert(batch.id.clone(), batch);
        }
    }
}

#[test]
fn counts_are_exact_while_their_shards_move() {
    let (_nodes, proxy) = small();
    let (mut admin, stop, ended) = (
        proxy.admin_client(),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    let (counted, written) = thread::scope(|scope| {
        let counting: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let (proxy, stop) = (&proxy, &stop);
                    move || count(proxy, number, stop)
                })
            })
            .collect();
        let flushing: Vec<_> = (0..2)
            .map(|number| {
                scope.spawn({
                    let (proxy, ended) = (&proxy, &ended);
                    move || flush(proxy, number, ended)
                })
            })
            .collect();
        for (shards, target) in [
            ("0-3", "node-2"),
            ("2-5", "node-1"),
            ("0-7", "node-1"),
            ("1,3,5", "node-2"),
        ] {
            move_shards(&mut admin, shards, target);
        }
        stop.store(true, Relaxed);
        let counted: Vec<_> = counting
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        ended.store(true, Relaxed);
        let written: Vec<_> = flushing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        (counted, written)
    });
    let sum = |maps: Vec<BTreeMap<String, i64>>| {
        let mut all: BTreeMap<String, i64> = BTreeMap::new();
        for (member, count) in maps.into_iter().flatten() {
            *all.entry(member).or_default() += count;
        }
        all
    };
    let (counted, written) = (sum(counted), sum(written));
    assert!(counted.values().sum::<i64>() > 1000, "{counted:?}");
    assert_eq!(counted, written);
    let mut client = proxy.client();
    assert_eq!(client.ask("DBSIZE").int(), 0);
}

/// More than a node keeps in one piece of memory, so that a shard is drained in steps.
const MEMBERS: usize = 1200;

/// M2: each state that a counter's shard can be in goes along.
#[test]
fn leases_expired_leases_and_half_drained_shards_move_along() {
    let (_nodes, proxy) = small();
    let (mut admin, mut client) = (proxy.admin_client(), proxy.client());
    let tag = |shard: u16| format!("{{{}}}", key_in(shard, 8, "t"));
    let [leased, expired, half] = [0, 1, 2].map(|shard| format!("{}c", tag(shard)));
    for counter in [&leased, &expired, &half] {
        for member in 0..MEMBERS {
            client.command(&["COUNTER.INCR", counter, &format!("m{member}")]);
        }
        (0..MEMBERS).for_each(|_| assert_eq!(client.reply().int(), 1));
    }
    let out = take(&mut client, &format!("{leased} LEASE 3600000")).remove(0);
    let late = take(&mut client, &format!("{expired} LEASE 1")).remove(0);
    let part = take(&mut client, &format!("{half} COUNT 100 LEASE 3600000")).remove(0);
    assert!(part.entries.len() < MEMBERS);
    move_shards(&mut admin, "0-2", "node-2");
    assert_eq!(take(&mut client, &leased), [], "its lease is kept");
    assert_eq!(client.ask(&format!("COUNTER.ACK {leased} {}", out.id)).int(), 1);
    let again = take(&mut client, &expired).remove(0);
    assert_eq!((&again.id, again.attempt), (&late.id, 2));
    assert_eq!(again.entries.len(), late.entries.len());
    let mut sum = part.sum();
    assert_eq!(client.ask(&format!("COUNTER.ACK {half} {}", part.id)).int(), 1);
    let mut prev = part.seq().to_string();
    while let Some(batch) = take(&mut client, &format!("{half} COUNT 100")).pop() {
        assert_eq!(batch.prev, prev, "the chain goes on");
        prev = batch.seq().to_string();
        sum += batch.sum();
        assert_eq!(client.ask(&format!("COUNTER.ACK {half} {}", batch.id)).int(), 1);
    }
    assert_eq!(sum, MEMBERS as i64);
}
