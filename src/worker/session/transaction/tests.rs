//! Transactions that never reach a node: what ends them, and what is left of what was watched.

use crate::command::CommandId;
use crate::ids::ShardId;
use crate::metrics::{Disconnect, RequestClass};
use crate::worker::dedicated::Dedicated;
use crate::worker::engine::Engine;
use crate::worker::session::blocking::Watching;
use crate::worker::session::input::Taken;
use crate::worker::session::testing::{ask, request};
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

/// A client that watches a key, over a connection without a socket.
fn watches(engine: &mut Engine, peer: &Peer) -> (Dedicated, ShardId) {
    let shard = engine.topology.shard_of_key(b"k");
    let at = engine.dedicated_to(peer.index, shard).unwrap();
    engine.pin_dedicated(at, Some((peer.index, peer.generation)));
    engine.clients[peer.index].watching = Some(Watching {
        at,
        shard,
        keys: 1,
        lost: false,
        moved: false,
    });
    (at, shard)
}

async fn greets(engine: &mut Engine, peer: &mut Peer, hello: &str) {
    assert_eq!(request(engine, peer, hello), Taken::Yes);
    let greeting = peer.read_all(engine, 1).await;
    assert!(!greeting.starts_with(b"-"), "{greeting:?}");
}

#[test]
fn who_changes_its_protocol_watches_nothing_any_more_and_its_exec_is_answered_in_the_new_one() {
    in_runtime(async {
        for (before, after, nothing) in [("HELLO 2", "HELLO 3", "_"), ("HELLO 3", "HELLO 2", "*-1")] {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            greets(&mut engine, &mut peer, before).await;
            watches(&mut engine, &peer);
            greets(&mut engine, &mut peer, before).await;
            let watching = engine.clients[peer.index].watching;
            assert!(watching.is_some_and(|watching| !watching.lost), "nothing changed");
            greets(&mut engine, &mut peer, after).await;
            ask(&mut engine, &mut peer, "MULTI", "+OK").await;
            ask(&mut engine, &mut peer, "GET k", "+QUEUED").await;
            ask(&mut engine, &mut peer, "EXEC", nothing).await;
            assert!(engine.clients[peer.index].watching.is_none());
            ask(&mut engine, &mut peer, "PING", "+PONG").await;
        }
    });
}

#[test]
fn who_leaves_without_its_watch_takes_no_connection_along_that_is_anothers_by_now() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let (at, shard) = watches(&mut engine, &peer);
        greets(&mut engine, &mut peer, "HELLO 3").await;
        let other = connect(&mut engine).await;
        let seq = engine.push_slot(other.index, CommandId::NONE, 1, RequestClass::Blocking);
        let job = engine.job_of(other.index, seq, ("blpop", shard), (Vec::new(), 1), None);
        engine.ask_own(other.index, at, job);
        engine.remove_client(peer.index, Disconnect::Client);
        assert_eq!(engine.asker_of(at), Some((other.index, other.generation)));
    });
}

#[test]
fn an_exec_that_is_refused_because_what_it_watches_is_held_ends_its_transaction() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let (_, shard) = watches(&mut engine, &peer);
        ask(&mut engine, &mut peer, "MULTI", "+OK").await;
        ask(&mut engine, &mut peer, "GET k", "+QUEUED").await;
        engine.hold(shard, |hold| hold.paused = true);
        assert_eq!(request(&mut engine, &peer, "EXEC"), Taken::NotNow, "it waits");
        assert!(engine.clients[peer.index].transaction.is_some());
        engine.clients[peer.index].refuse_when_full = true;
        let refused = format!("-TRYAGAIN preshard: shard {shard}: it is paused; it has not run");
        ask(&mut engine, &mut peer, "EXEC", &refused).await;
        ask(&mut engine, &mut peer, "PING", "+PONG").await;
        assert!(engine.clients[peer.index].watching.is_none());
        assert_eq!(engine.held_bytes, 0);
    });
}

#[test]
fn nobody_but_a_node_publishes_keyspace_notifications_by_a_transaction_either() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        for channel in ["__keyevent@0__:expired", "__keyspace@0__:k"] {
            ask(&mut engine, &mut peer, "MULTI", "+OK").await;
            ask(&mut engine, &mut peer, "PUBLISH news x", "+QUEUED").await;
            let refused = "-ERR only nodes publish on the channels of keyspace notifications";
            ask(&mut engine, &mut peer, &format!("PUBLISH {channel} x"), refused).await;
            let discarded = "-EXECABORT Transaction discarded because of previous errors.";
            ask(&mut engine, &mut peer, "EXEC", discarded).await;
        }
    });
}
