//! Postgres is away for a long time: what waits is bounded by members, not by increments, and is drained in pieces.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::kit::{Flush, PATIENCE, prepare, sum};
use super::postgres::Postgres;
use crate::harness::{Client, Metronome, small, wait_until};

const MEMBERS: u32 = 100_000;

/// All members of a tag live in one shard.
fn count_many(client: &mut Client, delta: i64) -> i64 {
    let mut sum = 0;
    for thousand in 0..MEMBERS / 1000 {
        let mut words = "COUNTER.MINCR events".to_owned();
        for member in thousand * 1000..(thousand + 1) * 1000 {
            write!(words, " {{one}}{member} {delta}").unwrap();
            sum += delta;
        }
        let replies = client.ask(&words).items();
        assert_eq!(replies.len(), 1000);
        replies.iter().for_each(|reply| assert!(reply.int() >= delta));
    }
    sum
}

#[test]
fn a_long_outage_is_drained_in_pieces_while_others_are_served() {
    let mut postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut flush = Flush::new(proxy.data, &postgres);
    flush.lease = "10s";
    flush.count = 5000;
    let flusher = flush.start();
    postgres.stop();
    let mut client = proxy.client3();
    let mut counted = count_many(&mut client, 1);
    counted += count_many(&mut client, 2);
    wait_until("it sees that Postgres is away", PATIENCE, || {
        flusher.log().contains("postgres_unreachable")
    });
    postgres.restart();
    // Meanwhile another client's requests to the same shard are answered; the worst time is told, and is bounded.
    let (mut other, mut worst) = (proxy.client3(), Duration::ZERO);
    let (started, metronome) = (Instant::now(), Metronome::start());
    wait_until("all is drained", PATIENCE, || {
        for _ in 0..100 {
            let asked = Instant::now();
            other.call(&["SET", "{one}", "v"]).expect_ok();
            worst = worst.max(asked.elapsed());
        }
        flusher.metric("preshard_flush_members_total") >= u64::from(MEMBERS)
    });
    println!(
        "drained {MEMBERS} members in {:?}; another client's worst: {worst:?}",
        started.elapsed()
    );
    wait_until("the last batch is acknowledged", PATIENCE, || {
        client.ask("COUNTER.GET events {one}1").int() == 0 && sum(&postgres) == counted
    });
    assert_eq!(postgres.number("SELECT count(*) FROM event WHERE n <> 3"), 0);
    let batches = flusher.metric("preshard_flush_batches_total{counter=\"events\",outcome=\"applied\"}");
    assert!((15..=40).contains(&batches), "in {batches} pieces");
    assert!(worst < Duration::from_secs(2) + metronome.late(), "{worst:?}");
}
