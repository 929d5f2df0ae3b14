//! What a proxy may answer on a bad day, and what Postgres may; told by a peer that does it on purpose.

use super::kit::{Flush, PATIENCE, prepare, sum};
use super::peer::{Peer, Say};
use super::postgres::Postgres;
use crate::harness::wait_until;

fn assert_drained(peer: &Peer, postgres: &Postgres, counted: i64, after: &str) {
    wait_until(&format!("all is flushed after: {after}"), PATIENCE, || {
        peer.is_drained()
    });
    assert_eq!(sum(postgres), counted, "after: {after}");
}

#[test]
fn whatever_the_proxy_says_each_increment_counts_once() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let peer = Peer::start();
    let mut flush = Flush::new(peer.address, &postgres);
    flush.workers = 2;
    let mut flusher = flush.start();
    let mut counted = 0;
    for (command, say) in [
        ("COUNTER.TAKE", Say::Instead("-TRYAGAIN 3 shards not checked")),
        ("COUNTER.TAKE", Say::After("-UNCERTAIN shard 3: no reply")),
        ("COUNTER.TAKE", Say::After("+what")),
        (
            "COUNTER.TAKE",
            Say::After("*1\r\n*4\r\n$1\r\nx\r\n:1\r\n*0\r\n:0"),
        ),
        ("COUNTER.TAKE", Say::Instead("no RESP at all")),
        ("COUNTER.TAKE", Say::Instead("-NOAUTH Authentication required.")),
        ("COUNTER.ACK", Say::Instead("-TRYAGAIN shard 3 is moving")),
        ("COUNTER.ACK", Say::After("-UNCERTAIN shard 3: no reply")),
        ("COUNTER.ACK", Say::Instead("-UNCERTAIN shard 3: no reply")),
        ("COUNTER.ACK", Say::After("$-1")),
        ("COUNTER.ACK", Say::Instead("-NOPERM no")),
        ("COUNTER.LEASE", Say::Instead("-UNCERTAIN shard 3: no reply")),
    ] {
        peer.say(command, say.clone());
        for member in 0..20 {
            peer.count(&format!("m{member}"), 3);
            counted += 3;
        }
        assert_drained(&peer, &postgres, counted, &format!("{command} {say:?}"));
    }
    assert!(flusher.metric("preshard_flush_errors_total{kind=\"later\",side=\"redis\"}") >= 4);
    assert_eq!(flusher.stop().code(), Some(0));
}

/// Redis forgets, goes back in time, and its clock goes back too. What may be counted twice is told, or set aside.
#[test]
fn a_redis_that_goes_back_is_seen_by_its_chain() {
    let postgres = Postgres::start();
    prepare(&postgres);
    for (policy, source) in [("apply", "one"), ("park", "two")] {
        let peer = Peer::start();
        let mut flush = Flush::new(peer.address, &postgres);
        flush.counters.push_str(&format!("on_rollback = \"{policy}\"\n"));
        flush.source = source;
        postgres.sql("TRUNCATE event, preshard_dead");
        let flusher = flush.start();
        let kind = |kind: &str| {
            flusher.metric(&format!(
                "preshard_flush_chain_total{{counter=\"events\",kind=\"{kind}\"}}"
            ))
        };
        peer.count("a", 5);
        assert_drained(&peer, &postgres, 5, "the start");
        let go_back = peer.snapshot();
        peer.count("a", 7);
        assert_drained(&peer, &postgres, 12, "a second batch");
        // The second batch never was, as far as Redis knows; then a third comes.
        go_back(&peer);
        peer.count("a", 1);
        wait_until("it is flushed", PATIENCE, || peer.is_drained());
        assert_eq!(kind("rolled_back"), 1, "{}", flusher.log());
        let applied = if policy == "apply" { 13 } else { 12 };
        let parked = if policy == "apply" { "" } else { "a|1" };
        assert_eq!(sum(&postgres), applied, "{policy}");
        assert_eq!(postgres.sql("SELECT member, delta FROM preshard_dead"), parked);
        // It has forgotten everything: what comes is new.
        peer.forget(0);
        peer.count("a", 1);
        assert_drained(&peer, &postgres, applied + 1, "forgotten");
        assert_eq!((kind("reset"), kind("past")), (1, 0), "{}", flusher.log());
        // It has forgotten everything, and its clock is behind: the batch looks like an old one, and is not lost.
        peer.forget(-500_000);
        peer.count("a", 2);
        wait_until("it is flushed", PATIENCE, || peer.is_drained());
        assert_eq!(kind("past"), 1, "{}", flusher.log());
        let (applied, parked) = match policy {
            "apply" => (applied + 3, ""),
            _ => (applied + 1, "a|1\na|2"),
        };
        assert_eq!(sum(&postgres), applied, "{policy}");
        assert_eq!(
            postgres.sql("SELECT member, delta FROM preshard_dead ORDER BY delta"),
            parked
        );
        // From there on all is as usual.
        peer.count("a", 4);
        assert_drained(&peer, &postgres, applied + 4, "as usual again");
        assert_eq!(kind("past"), 1);
    }
}

#[test]
fn members_that_postgres_refuses_go_to_the_dead_letters_and_all_others_are_applied() {
    let postgres = Postgres::start();
    prepare(&postgres);
    postgres.sql(
        "CREATE TABLE vote (id bigint PRIMARY KEY, n bigint CHECK (n <= 1000)); \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN IF NEW.id = 13 THEN RAISE EXCEPTION 'not thirteen'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON vote FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let peer = Peer::start();
    let mut flush = Flush::new(peer.address, &postgres);
    flush.counters = "[[counter]]\nname = \"votes\"\nmember = \"bigint\"\nsql = \"\"\"-- votes\nWITH named AS (SELECT member::bigint AS id, delta FROM delta)\n\
        INSERT INTO vote AS v SELECT id, delta FROM named ON CONFLICT (id) DO UPDATE SET n = v.n + EXCLUDED.n;\"\"\"\n"
        .to_owned();
    let flusher = flush.start();
    for member in 1..=200 {
        peer.count(&member.to_string(), 1);
    }
    for (member, delta) in [("007", 1), ("x", 1), ("99999999999999999999", 2), ("77", 5000)] {
        peer.count(member, delta);
    }
    wait_until("all is flushed", PATIENCE, || peer.is_drained());
    let dead =
        postgres.sql("SELECT member, delta, split_part(error, ':', 1) FROM preshard_dead ORDER BY member");
    assert_eq!(
        dead,
        "13|1|P0001\n77|5001|23514\n99999999999999999999|2|preshard\nx|1|preshard"
    );
    assert_eq!(postgres.sql("SELECT count(*), sum(n) FROM vote"), "198|199");
    assert_eq!(flusher.metric("preshard_flush_dead_letters_total"), 4);
    // With `fail`, they wait, and so does their shard; all other shards go on.
    let mut strict = flush.clone();
    strict.counters.push_str("on_bad = \"fail\"\n");
    drop(flusher);
    postgres.sql("TRUNCATE preshard_dead, vote");
    let flusher = strict.start();
    for member in ["x", "2", "3", "4", "5"] {
        peer.count(member, 1);
    }
    wait_until("the others are applied", PATIENCE, || {
        // "x" and "4" share a shard.
        postgres.sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM vote") == "2,3,5"
    });
    assert!(!peer.is_drained());
    assert_eq!(postgres.number("SELECT count(*) FROM preshard_dead"), 0);
    assert!(flusher.log().contains("flush_refused"), "{}", flusher.log());
    drop(flusher);
    let values = flush.run(&["--once"]);
    assert_eq!(values.0, Some(0), "{}", values.1);
}

#[test]
fn a_statement_that_breaks_while_running_is_told_and_tried_again() {
    let postgres = Postgres::start();
    prepare(&postgres);
    let peer = Peer::start();
    let mut flusher = Flush::new(peer.address, &postgres).start();
    postgres.sql("ALTER TABLE event RENAME TO gone");
    peer.count("a", 1);
    wait_until("it is told", PATIENCE, || flusher.log().contains("flush_refused"));
    let acks = peer.seen("COUNTER.ACK");
    postgres.sql("ALTER TABLE gone RENAME TO event");
    assert_drained(&peer, &postgres, 1, "the table is back");
    assert_eq!(acks, 0);
    assert_eq!(flusher.stop().code(), Some(0));
}
