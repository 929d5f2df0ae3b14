//! A flusher, or what it talks to, dies at each point of its cycle.
//!
//! ```text
//!  TAKE ─▶ (1) reply (2) ─▶ BEGIN (3) ─▶ marker (4) ─▶ statement (5) ─▶ COMMIT (6) reply (7) ─▶ ACK (8) reply
//! ```

use super::kit::{COMMIT, Flush, PATIENCE, assert_drained, count, pending, prepare, sum};
use super::postgres::Postgres;
use super::shim::{Hold, Shim};
use crate::harness::{Node, Scratch, Setup, free_port, small, wait_until};

/// Which side's message is stopped, and which one.
const POINTS: [(&str, bool, &str, Hold); 8] = [
    (
        "TAKE is sent, its reply is not there",
        true,
        "COUNTER.TAKE",
        Hold::After,
    ),
    ("TAKE is answered", false, "BEGIN", Hold::Before),
    ("BEGIN is answered", false, "FOR UPDATE", Hold::Before),
    ("the marker is written", false, "INTO event", Hold::Before),
    ("the statement has run", false, COMMIT, Hold::Before),
    (
        "COMMIT is done, its answer is not there",
        false,
        COMMIT,
        Hold::After,
    ),
    ("COMMIT is answered", true, "COUNTER.ACK", Hold::Before),
    (
        "ACK is done, its reply is not there",
        true,
        "COUNTER.ACK",
        Hold::After,
    ),
];

#[test]
fn a_flusher_is_killed_at_each_point_and_nothing_is_lost_or_counted_twice() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let shims = [
        Shim::to(([127, 0, 0, 1], postgres.port).into()),
        Shim::to(proxy.data),
    ];
    let mut through = Flush::new(shims[1].address, &postgres);
    through.postgres = format!("postgres://app@{}/postgres", shims[0].address);
    let second = Flush::new(proxy.data, &postgres).start();
    second.freeze();
    let mut counted = 0;
    for (point, of_redis, marker, hold) in POINTS {
        // Members that are there already and new ones, so that some batches have a marker to compare with and some have none.
        counted += count(&mut client, 0..20, 3);
        let shim = &shims[usize::from(of_redis)];
        let mut flusher = through.start();
        shim.arm(marker, hold);
        counted += count(&mut client, 10..40, 2);
        shim.await_strike();
        flusher.kill();
        shims.iter().for_each(Shim::cut);
        counted += count(&mut client, 0..10, 1);
        second.thaw();
        assert_drained(&mut client, &postgres, counted, point);
        second.freeze();
    }
    second.thaw();
    let (repeated, skipped) = (
        second.metric("preshard_flush_redeliveries_total"),
        second.metric("preshard_flush_batches_total{counter=\"events\",outcome=\"duplicate\"}"),
    );
    println!("{repeated} batches came again, {skipped} of them had been applied");
    assert!(repeated >= 6 && skipped >= 2, "{repeated} {skipped}");
    assert_eq!(postgres.number("SELECT count(*) FROM preshard_dead"), 0);
    assert_eq!(second.metric("preshard_flush_chain_total"), 0, "{}", second.log());
}

/// The same points, but the connection is cut there and the flusher lives on: it finds its way by itself.
#[test]
fn connections_are_cut_at_each_point_and_the_flusher_goes_on() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let shims = [
        Shim::to(([127, 0, 0, 1], postgres.port).into()),
        Shim::to(proxy.data),
    ];
    let mut through = Flush::new(shims[1].address, &postgres);
    through.postgres = format!("postgres://app@{}/postgres", shims[0].address);
    let mut flusher = through.start();
    let mut counted = 0;
    for (point, of_redis, marker, hold) in POINTS {
        let shim = &shims[usize::from(of_redis)];
        shim.arm(marker, hold);
        counted += count(&mut client, 0..30, 2);
        shim.await_strike();
        shim.cut();
        counted += count(&mut client, 0..10, 1);
        assert_drained(&mut client, &postgres, counted, point);
    }
    assert!(flusher.metric("preshard_flush_errors_total{kind=\"unknown\",side=\"postgres\"}") >= 1);
    assert_eq!(flusher.stop().code(), Some(0));
}

/// Stopped for longer than a lease, with others beside it; what it does when it goes on changes nothing any more.
#[test]
fn a_flusher_that_stands_still_for_longer_than_its_lease_counts_nothing_twice() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let shims = [
        Shim::to(([127, 0, 0, 1], postgres.port).into()),
        Shim::to(proxy.data),
    ];
    let mut through = Flush::new(shims[1].address, &postgres);
    through.postgres = format!("postgres://app@{}/postgres", shims[0].address);
    let slow = through.start();
    let mut counted = 0;
    for (point, of_redis, marker, hold) in POINTS {
        let shim = &shims[usize::from(of_redis)];
        shim.arm(marker, hold);
        counted += count(&mut client, 0..20, 2);
        shim.await_strike();
        slow.freeze();
        // What it waited for is there, and it does not look.
        shim.release();
        counted += count(&mut client, 0..10, 1);
        let mut others = [0, 1].map(|_| Flush::new(proxy.data, &postgres).start());
        assert_drained(&mut client, &postgres, counted, point);
        slow.thaw();
        counted += count(&mut client, 5..15, 1);
        assert_drained(&mut client, &postgres, counted, point);
        for other in &mut others {
            assert_eq!(other.stop().code(), Some(0), "{point}");
        }
    }
}

#[test]
fn a_proxy_is_killed_during_take_and_during_ack() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let nodes = [Node::start(), Node::start()];
    let dir = Scratch::new("store");
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .store(&dir.file("topology.json").display().to_string())
        .listen(&format!("\"127.0.0.1:{}\"", free_port()));
    let mut proxy = setup.start();
    let shim = Shim::to(proxy.data);
    let flusher = Flush::new(shim.address, &postgres).start();
    let mut counted = 0;
    for (marker, hold) in [
        ("COUNTER.TAKE", Hold::After),
        ("COUNTER.TAKE", Hold::Before),
        ("COUNTER.ACK", Hold::Before),
        ("COUNTER.ACK", Hold::After),
    ] {
        shim.arm(marker, hold);
        counted += count(&mut proxy.client3(), 0..30, 2);
        shim.await_strike();
        proxy.kill();
        shim.cut();
        proxy = setup.start();
        counted += count(&mut proxy.client3(), 0..10, 1);
        assert_drained(
            &mut proxy.client3(),
            &postgres,
            counted,
            &format!("{marker} {hold:?}"),
        );
    }
    drop(flusher);
}

#[test]
fn postgres_is_killed_and_restarted_in_the_middle_of_a_commit() {
    let mut postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let shim = Shim::to(([127, 0, 0, 1], postgres.port).into());
    let mut through = Flush::new(proxy.data, &postgres);
    through.postgres = format!("postgres://app@{}/postgres", shim.address);
    let flusher = through.start();
    let mut counted = 0;
    for (killed, hold) in [
        (true, Hold::Before),
        (true, Hold::After),
        (false, Hold::Before),
        (false, Hold::After),
    ] {
        shim.arm(COMMIT, hold);
        counted += count(&mut client, 0..30, 2);
        shim.await_strike();
        if killed {
            postgres.kill();
        } else {
            postgres.stop();
        }
        // What was held goes to a server that is no more, or comes from it as its last word.
        shim.release();
        counted += count(&mut client, 0..10, 1);
        postgres.restart();
        assert_drained(
            &mut client,
            &postgres,
            counted,
            &format!("killed {killed}, {hold:?}"),
        );
    }
    drop(flusher);
}

/// A lock that somebody else holds: the batch is put back again and again, and the lock's end lets it through.
#[test]
fn a_table_that_is_locked_delays_its_batch_and_nothing_is_lost() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let (_nodes, proxy) = small();
    let mut client = proxy.client3();
    let flusher = Flush::new(proxy.data, &postgres).start();
    let mut counted = count(&mut client, 0..10, 1);
    assert_drained(&mut client, &postgres, counted, "the start");
    let mut holder = postgres.hold("LOCK TABLE event IN EXCLUSIVE MODE");
    let before = counted;
    counted += count(&mut client, 0..20, 5);
    wait_until("it finds the table locked, twice", PATIENCE, || {
        flusher.metric("preshard_flush_errors_total{kind=\"contention\",side=\"postgres\"}") > 1
    });
    assert_eq!(sum(&postgres), before);
    assert!(pending(&mut client) > 0);
    postgres.release(&mut holder);
    assert_drained(&mut client, &postgres, counted, "the lock has gone");
}
