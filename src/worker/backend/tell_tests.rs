//! Whatever becomes of a call by its sum before it is sent: the node knows the script when it gets the call.

use super::super::State;
use super::*;
use crate::ids::{NodeIndex, ShardId};
use crate::metrics::LinkClose;
use crate::resp::Protocol;
use crate::worker::engine::Engine;
use crate::worker::scripts::Sha;
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

const BODY: &str = "return redis.call('GET', KEYS[1])";
const SUM: &str = "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f";
/// Two shards of the first node.
const ONE: ShardId = ShardId(0);
const OTHER: ShardId = ShardId(1);

/// An engine whose proxy has seen the script.
fn with_script() -> Engine {
    let engine = engine(limits());
    engine
        .shared
        .scripts
        .keep(Sha::of(BODY.as_bytes()), BODY.as_bytes());
    engine
}

fn link(engine: &Engine) -> usize {
    engine.script_lane(OTHER, Protocol::Resp2).link as usize
}

/// The connection to the node is there, with no database selected.
fn opened(engine: &mut Engine) {
    let link = link(engine);
    let link = &mut engine.links[link];
    (link.state, link.db) = (State::Ready, None);
    link.cells.link_opened(link.wire());
}

fn key_of(engine: &Engine, shard: ShardId) -> String {
    let mut keys = (0..10_000).map(|number| format!("key:{number}"));
    keys.find(|key| engine.topology.shard_of_key(key.as_bytes()) == shard)
        .unwrap()
}

fn ask(engine: &mut Engine, peer: &Peer, words: &[&str]) {
    let mut frame = Vec::new();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    resp::write_request(&mut frame, &words);
    engine.client_input(peer.index, &frame);
}

fn call(engine: &mut Engine, peer: &Peer, shard: ShardId) {
    let key = key_of(engine, shard);
    ask(engine, peer, &["EVALSHA", SUM, "1", &key]);
}

/// Writes what may be written. What is due then, from the oldest on: `L` a script that is loaded, `S` a SELECT, a request by its shard.
fn sent(engine: &mut Engine) -> String {
    let link = link(engine);
    engine.link_fill(link);
    let due = engine.links[link].due.iter();
    due.map(|entry| match entry.owner {
        Owner::Order => 'L',
        Owner::Select => 'S',
        Owner::Client { .. } | Owner::Gather { .. } | Owner::Tombstone => {
            char::from_digit(u32::from(entry.shard.0), 10).unwrap()
        }
    })
    .collect()
}

/// The node answers, with a fence behind each but a SELECT.
fn answers(engine: &mut Engine, replies: &[&str]) {
    let link = link(engine);
    let mut bytes = Vec::new();
    let fence = engine.links[link].fence.clone();
    for reply in replies {
        bytes.extend_from_slice(reply.as_bytes());
        if *reply != "+OK\r\n" {
            bytes.extend_from_slice(&fence);
        }
    }
    // As if all of it had gone out.
    let mut out = std::mem::take(&mut engine.links[link].out);
    out.clear(&mut engine.spares);
    engine.links[link].out = out;
    engine.link_input(link, &bytes).unwrap();
}

const LOADED: &str = "$40\r\nd3c21d0c2b9ca22f82737626a27bcaf5d288f99f\r\n";
const UNKNOWN: &str = "-NOSCRIPT No matching script. Please use EVAL.\r\n";

async fn replies(engine: &mut Engine, peer: &mut Peer, expected: &[&str]) {
    let expected = expected.concat();
    let came = peer.read_all(engine, expected.len()).await;
    assert_eq!(String::from_utf8(came).unwrap(), expected);
}

#[test]
fn a_node_is_told_once_and_before_everything_that_calls_the_script() {
    in_runtime(async {
        let mut engine = with_script();
        let mut peer = connect(&mut engine).await;
        call(&mut engine, &peer, ONE);
        call(&mut engine, &peer, ONE);
        call(&mut engine, &peer, OTHER);
        opened(&mut engine);
        assert_eq!(sent(&mut engine), "LS00S1");
        answers(
            &mut engine,
            &[
                LOADED,
                "+OK\r\n",
                "$1\r\na\r\n",
                "$1\r\nb\r\n",
                "+OK\r\n",
                "$1\r\nc\r\n",
            ],
        );
        replies(
            &mut engine,
            &mut peer,
            &["$1\r\na\r\n", "$1\r\nb\r\n", "$1\r\nc\r\n"],
        )
        .await;
        call(&mut engine, &peer, OTHER);
        assert_eq!(sent(&mut engine), "1", "it knows the script");
    });
}

#[test]
fn calls_that_are_refused_or_wait_too_long_tell_nobody_anything() {
    in_runtime(async {
        let mut engine = with_script();
        let mut peer = connect(&mut engine).await;
        let link = link(&engine);
        call(&mut engine, &peer, ONE);
        engine.link_down(link);
        call(&mut engine, &peer, ONE);
        let down = "-CLUSTERDOWN preshard: shard 0: its node is down; it has not run\r\n";
        replies(&mut engine, &mut peer, &[down, down]).await;
        assert!(engine.links[link].backlog.is_empty());
        opened(&mut engine);
        call(&mut engine, &peer, ONE);
        engine.now += 1_000_000;
        engine.link_deadlines(link);
        let late = "-TRYAGAIN preshard: shard 0: it waited too long for its node; it has not run\r\n";
        replies(&mut engine, &mut peer, &[late]).await;
        call(&mut engine, &peer, ONE);
        engine.refuse_queued(link, "CLUSTERDOWN", "its node does not answer");
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "LS0");
    });
}

#[test]
fn a_shard_that_goes_first_brings_the_script_though_another_one_asked_before_it() {
    in_runtime(async {
        let mut engine = with_script();
        let peer = connect(&mut engine).await;
        opened(&mut engine);
        let link = link(&engine);
        engine.links[link].db = Some(engine.topology.placement(OTHER).db);
        call(&mut engine, &peer, ONE);
        call(&mut engine, &peer, OTHER);
        assert_eq!(sent(&mut engine), "L1S0");
    });
}

#[test]
fn who_waits_at_a_gate_has_told_nobody_and_is_told_of_where_it_goes() {
    in_runtime(async {
        let mut engine = with_script();
        let peer = connect(&mut engine).await;
        opened(&mut engine);
        call(&mut engine, &peer, ONE);
        engine.hold(ONE, |hold| hold.moving = true);
        call(&mut engine, &peer, ONE);
        call(&mut engine, &peer, OTHER);
        assert_eq!(sent(&mut engine), "LS1");
        // It goes to the second node.
        engine
            .shared
            .adopt(
                engine
                    .topology
                    .changed(|next| {
                        next.placements[ONE.index()].node = NodeIndex(1);
                        Ok(())
                    })
                    .unwrap(),
            )
            .unwrap();
        engine.adopt();
        let there = engine.script_lane(ONE, Protocol::Resp2).link as usize;
        assert_eq!(engine.links[there].node, NodeIndex(1));
        engine.links[there].state = State::Ready;
        engine.link_fill(there);
        let owners: Vec<bool> = engine.links[there]
            .due
            .iter()
            .map(|entry| entry.owner == Owner::Order)
            .collect();
        assert_eq!(
            owners,
            [true, false, false, false],
            "the script, SELECT, two calls"
        );
    });
}

#[test]
fn a_call_that_waits_while_its_connection_breaks_finds_its_script_over_the_next_one() {
    in_runtime(async {
        let mut engine = with_script();
        let peer = connect(&mut engine).await;
        opened(&mut engine);
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "LS0");
        call(&mut engine, &peer, ONE);
        let link = link(&engine);
        engine.link_closed(link, LinkClose::Eof);
        opened(&mut engine);
        assert_eq!(sent(&mut engine), "LS0");
    });
}

#[test]
fn a_script_that_was_sent_whole_is_told_before_it_is_called_by_its_sum() {
    in_runtime(async {
        let mut engine = engine(limits());
        let peer = connect(&mut engine).await;
        opened(&mut engine);
        let key = key_of(&engine, ONE);
        ask(&mut engine, &peer, &["MULTI"]);
        ask(&mut engine, &peer, &["EVAL", BODY, "1", &key]);
        ask(&mut engine, &peer, &["DISCARD"]);
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "LS0");
        let mut engine = self::engine(limits());
        let peer = connect(&mut engine).await;
        opened(&mut engine);
        ask(&mut engine, &peer, &["EVAL", BODY, "1", &key]);
        assert_eq!(sent(&mut engine), "S0");
        call(&mut engine, &peer, ONE);
        let link = link(&engine);
        engine.links[link].batches.clear();
        assert_eq!(
            sent(&mut engine),
            "S0LS0",
            "it may have been forgotten, or never have run"
        );
    });
}

#[test]
fn a_transaction_is_told_of_its_scripts_when_it_runs() {
    in_runtime(async {
        let mut engine = with_script();
        let mut peer = connect(&mut engine).await;
        opened(&mut engine);
        let key = key_of(&engine, ONE);
        ask(&mut engine, &peer, &["MULTI"]);
        ask(&mut engine, &peer, &["SET", &key, "1"]);
        ask(&mut engine, &peer, &["EVALSHA", SUM, "1", &key]);
        ask(&mut engine, &peer, &["EVALSHA", SUM, "1", &key]);
        assert_eq!(sent(&mut engine), "");
        ask(&mut engine, &peer, &["EXEC"]);
        assert_eq!(sent(&mut engine), "LS0");
        let queued = "+QUEUED\r\n";
        replies(&mut engine, &mut peer, &["+OK\r\n", queued, queued, queued]).await;
        let ran = "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n+OK\r\n$1\r\n1\r\n$1\r\n1\r\n";
        answers(&mut engine, &[LOADED, "+OK\r\n", ran]);
        replies(&mut engine, &mut peer, &["*3\r\n+OK\r\n$1\r\n1\r\n$1\r\n1\r\n"]).await;
    });
}

#[test]
fn a_node_that_has_lost_its_scripts_is_told_again_whoever_finds_out() {
    in_runtime(async {
        for requests in [1, 2] {
            let mut engine = with_script();
            let mut peer = connect(&mut engine).await;
            opened(&mut engine);
            call(&mut engine, &peer, ONE);
            assert_eq!(sent(&mut engine), "LS0");
            answers(&mut engine, &[LOADED, "+OK\r\n", "$-1\r\n"]);
            replies(&mut engine, &mut peer, &["$-1\r\n"]).await;
            for _ in 0..requests {
                call(&mut engine, &peer, ONE);
            }
            assert_eq!(sent(&mut engine), "0".repeat(requests));
            answers(&mut engine, &vec![UNKNOWN; requests]);
            if requests == 1 {
                assert_eq!(sent(&mut engine), "L0", "it was alone, so it is asked again");
                answers(&mut engine, &[LOADED, "$-1\r\n"]);
                replies(&mut engine, &mut peer, &["$-1\r\n"]).await;
            } else {
                replies(&mut engine, &mut peer, &vec![UNKNOWN; requests]).await;
                call(&mut engine, &peer, ONE);
                call(&mut engine, &peer, ONE);
                assert_eq!(sent(&mut engine), "L00");
            }
        }
    });
}

#[test]
fn what_a_script_answers_by_itself_does_not_have_it_run_again() {
    in_runtime(async {
        let mut engine = with_script();
        let mut peer = connect(&mut engine).await;
        opened(&mut engine);
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "LS0");
        answers(&mut engine, &[LOADED, "+OK\r\n", "-NOSCRIPT says the script\r\n"]);
        replies(&mut engine, &mut peer, &["-NOSCRIPT says the script\r\n"]).await;
        assert_eq!(sent(&mut engine), "");
    });
}

#[test]
fn a_script_that_could_not_be_loaded_is_tried_again() {
    in_runtime(async {
        let mut engine = with_script();
        let mut peer = connect(&mut engine).await;
        opened(&mut engine);
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "LS0");
        let busy = "-BUSY Redis is busy running a script.\r\n";
        answers(&mut engine, &[busy, "+OK\r\n", busy]);
        replies(&mut engine, &mut peer, &[busy]).await;
        call(&mut engine, &peer, ONE);
        assert_eq!(sent(&mut engine), "L0");
    });
}

#[test]
fn only_a_transaction_that_says_so_in_a_line_lacks_a_script() {
    let entry = |shape| Entry {
        owner: Owner::Tombstone,
        bytes: 0,
        since: 0,
        shard: ONE,
        large: false,
        shape,
        frames: 1,
    };
    let inside = format!("*2\r\n+OK\r\n{UNKNOWN}");
    assert!(lacks_scripts(entry(Shape::FencedTransaction), inside.as_bytes()));
    assert!(!lacks_scripts(
        entry(Shape::FencedTransaction),
        b"*1\r\n$9\r\n-NOSCRIP \r\n"
    ));
    assert!(!lacks_scripts(entry(Shape::Fenced), inside.as_bytes()));
    assert!(lacks_scripts(entry(Shape::Fenced), UNKNOWN.as_bytes()));
    assert!(has_not_run(entry(Shape::Fenced), UNKNOWN.as_bytes()));
    assert!(!has_not_run(entry(Shape::FencedTransaction), UNKNOWN.as_bytes()));
}
