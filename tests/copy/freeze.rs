//! What a cutover goes by when the source is frozen, on every server at hand: the offset that it tells, and the numbers of keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use preshard::control::NodeClient;
use preshard::control::fence::{Words, act_and_ask, take_over, words};
use preshard::ids::DbIndex;
use preshard::migration::Copy;
use preshard::resp::Value;
use preshard::store::Term;

use crate::kit::{
    Conn, METADATA, MOVED, OTHER, PATIENCE, endpoint, plan, runtime, wait_streaming, wait_until,
};
use crate::server::{Server, at_hand, bytes};

const TERM: Term = Term(7);

/// What a source is told when it is frozen, and what in cooperative mode.
fn freezes() -> [Vec<Words>; 2] {
    let touch = words(["SET", "preshard:term", "7"]);
    let refuse = words(["ACL", "SETUSER", "ps-u-x", "-@all", "+select", "+ping"]);
    [
        vec![refuse, touch],
        vec![words(["GET", "preshard:mark"]), words(["CLIENT", "LIST"])],
    ]
}

fn offset_in(info: &Value) -> u64 {
    let info = String::from_utf8_lossy(info.as_bytes().unwrap()).into_owned();
    let mut lines = info.lines();
    let offset = lines.find_map(|line| line.strip_prefix("master_repl_offset:"));
    offset.unwrap().trim().parse().unwrap()
}

/// Else a cutover that is given up could not read the stream on from there: it would meet an end without a beginning.
#[test]
fn the_offset_of_a_freeze_has_all_of_it_before() {
    for name in at_hand() {
        let (source, target) = (Server::start(name), Server::start(name));
        let mut conn = Conn::to(&source, 3);
        conn.line("CONFIG SET repl-ping-replica-period 3600");
        let runtime = runtime();
        let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[3])) });
        runtime.block_on(copy.until_streaming()).unwrap();
        let told = runtime.block_on(async {
            let end = endpoint(source.socket());
            let admin = NodeClient::connect(&end.address, &end.credentials, PATIENCE).await;
            let (mut admin, metadata) = (admin.unwrap(), DbIndex(METADATA));
            take_over(&mut admin, metadata, TERM).await.unwrap();
            let question = words(["INFO", "replication"]);
            let mut told = Vec::new();
            for freeze in freezes() {
                let replies = act_and_ask(&mut admin, metadata, TERM, &freeze, &question).await;
                told.push((offset_in(replies.unwrap().last().unwrap()), conn.offset()));
            }
            told
        });
        for (offset, behind) in &told {
            assert_eq!(
                offset, behind,
                "{name}: something of the freeze is behind its offset"
            );
        }
        assert!(told[0].0 > 0, "{name} keeps a history");
        let offset = told[1].0;
        runtime.block_on(copy.drain_to(offset)).unwrap();
        runtime.block_on(copy.thaw()).unwrap();
        conn.line("SET behind 1");
        wait_until(&copy, "the copy goes on", PATIENCE, |_| {
            bytes(Conn::to(&target, 3 + MOVED).line("EXISTS behind")) == b"1"
        });
        assert_eq!(copy.progress().restarts, 0, "{name}");
        runtime.block_on(copy.stop()).unwrap();
    }
}

/// Scripts of others, which are transactions in the stream, are under way when the source is frozen, and go on.
#[test]
fn a_cutover_that_is_given_up_behind_its_drain_goes_on_with_the_same_copy() {
    const SCRIPT: &[u8] = b"for i = 1, 20 do redis.call('SET', KEYS[1] .. i, ARGV[1]) end";
    let (source, target) = (Server::start("redis 7.0"), Server::start("redis 7.0"));
    let (stop, value) = (Arc::new(AtomicBool::new(false)), vec![b'x'; 3_000]);
    let others: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let (stop, value, mut conn) = (Arc::clone(&stop), value.clone(), Conn::to(&source, OTHER));
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    conn.ask(&[b"EVAL", SCRIPT, b"1", name.as_bytes(), &value]);
                    // Only so much is kept behind a freeze.
                    std::thread::park_timeout(Duration::from_millis(2));
                }
            })
        })
        .collect();
    let runtime = runtime();
    let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[3])) });
    wait_streaming(&copy);
    let mut conn = Conn::to(&source, 3);
    for round in 0..60 {
        let offset = conn.offset();
        runtime.block_on(copy.drain_to(offset)).unwrap();
        wait_until(&copy, "more comes", PATIENCE, |now| {
            now.stream_offset > offset + 500_000
        });
        runtime.block_on(copy.thaw()).unwrap();
        conn.line(&format!("SET round {round}"));
        wait_until(&copy, "the copy goes on", PATIENCE, |now| {
            assert_eq!(now.restarts, 0, "{round}: {now:?}");
            bytes(Conn::to(&target, 3 + MOVED).line("EXISTS round")) == b"1"
        });
        conn.line("DEL round");
    }
    stop.store(true, Relaxed);
    others.into_iter().for_each(|other| other.join().unwrap());
    runtime.block_on(copy.stop()).unwrap();
}

/// The source counts them until it comes by; the target has dropped them as soon as it was told when they expire.
#[test]
fn hashes_whose_fields_have_all_expired_do_not_make_the_numbers_of_keys_differ() {
    const HASHES: u32 = 50;
    for name in at_hand() {
        let (source, target) = (Server::start(name), Server::start(name));
        if !source.expires_fields() {
            continue;
        }
        let mut conn = Conn::to(&source, 3);
        // It comes by once a second.
        conn.line("CONFIG SET hz 1");
        conn.line("SET lasting 1");
        let runtime = runtime();
        let mut copy = runtime.block_on(async { Copy::start(plan(&source, &target, &[3])) });
        runtime.block_on(copy.until_streaming()).unwrap();
        let begin = Instant::now();
        loop {
            for number in 0..HASHES {
                conn.line(&format!("HSET h{number} f v"));
                conn.line(&format!("HPEXPIRE h{number} 50 FIELDS 1 f"));
            }
            wait_until(&copy, "the last one expires", PATIENCE, |_| {
                Conn::to(&source, 3).line(&format!("HGET h{} f", HASHES - 1)) == Value::Null
            });
            let offset = conn.offset();
            runtime.block_on(copy.drain_to(offset)).unwrap();
            let counts = runtime.block_on(copy.counts()).unwrap();
            let seen = format!("{name}: {counts:?}");
            assert!(counts[0].agree(), "{seen}");
            runtime.block_on(copy.thaw()).unwrap();
            let (on_source, on_target) = counts[0].lasting();
            if on_source > on_target {
                println!("{seen}");
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "no number ever differed; {seen}");
        }
        assert_eq!(copy.progress().restarts, 0, "{name}");
        runtime.block_on(copy.stop()).unwrap();
    }
}
