//! What holds a client's requests back, and what lets them go on: no wait is forgotten, none is for ever.

use super::client::Pause;
use crate::merge::Outcome;
use crate::metrics::{Disconnect, Limit};
use crate::resp;
use crate::worker::backend::{Entry, Owner};
use crate::worker::engine::Engine;
use crate::worker::testing::{Peer, connect, engine, engine_of, in_runtime, limits};

/// The first node's RESP2 link.
const LINK: usize = 0;

fn requests(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        resp::write_request(&mut bytes, &words);
    }
    bytes
}

/// Takes all that waits for the nodes.
fn take_queued(engine: &mut Engine) -> Vec<Entry> {
    let links = engine.links.iter_mut();
    links
        .flat_map(|link| std::iter::from_fn(|| link.backlog.pop()).collect::<Vec<_>>())
        .collect()
}

/// Answers a part of a gather.
fn answer(engine: &mut Engine, entry: &Entry, reply: &[u8]) {
    let Owner::Gather {
        index,
        generation,
        part,
    } = entry.owner
    else {
        panic!("{entry:?} is no part of a gather");
    };
    engine.gather_part(index as usize, generation, part, Outcome::Reply(reply));
}

fn keys_reply(bytes: usize) -> Vec<u8> {
    let mut reply = b"*1\r\n".to_vec();
    resp::write_bulk(&mut reply, &vec![b'k'; bytes]);
    reply
}

fn assert_settled(engine: &Engine, peer: &Peer) {
    let client = &engine.clients[peer.index];
    assert!(client.slots.is_empty() && client.partial.is_none());
    assert_eq!((client.pause, client.closed), (Pause::No, None));
    assert_eq!(
        (client.request_bytes, client.gathered, client.output_bytes()),
        (0, 0, 0)
    );
    assert_eq!((engine.held_bytes, engine.gathers.len()), (0, 0));
}

#[test]
fn a_wait_for_a_full_queue_is_listed_once_measured_from_its_start_and_ends() {
    in_runtime(async {
        let mut limits = limits();
        limits.node_queue = 1;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        // Database 1 is a pinned shard of the first node.
        let bytes = requests(&["SELECT 1", "GET a", "GET b", "GET c"]);
        engine.client_input(peer.index, &bytes);
        let began = engine.clients[peer.index].paused_at;
        for _ in 0..5 {
            assert_eq!(engine.clients[peer.index].pause, Pause::Queue);
            assert_eq!(engine.clients[peer.index].paused_at, began);
            assert_eq!(engine.links[LINK].waiting.len(), 1);
            engine.now += 100_000;
            engine.resume_input(peer.index);
        }
        // As the sweep says when the wait is over: this request is refused, the next one may wait as long.
        engine.clients[peer.index].refuse_when_full = true;
        engine.resume_input(peer.index);
        let client = &engine.clients[peer.index];
        assert_eq!(
            (client.pause, client.paused_at, client.refuse_when_full),
            (Pause::Queue, engine.now, false)
        );
        engine.refuse_queued(LINK, "CLUSTERDOWN", "its node is down");
        assert!(engine.links[LINK].waiting.is_empty());
        engine.resume_input(peer.index);
        assert_eq!(engine.clients[peer.index].pause, Pause::No);
        engine.refuse_queued(LINK, "CLUSTERDOWN", "its node is down");
        let got = String::from_utf8(peer.read_all(&mut engine, 100).await).unwrap();
        let words: Vec<&str> = got.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["+OK", "-CLUSTERDOWN", "-TRYAGAIN", "-CLUSTERDOWN"]);
        assert_settled(&engine, &peer);
    });
}

#[test]
fn requests_beyond_the_limit_in_flight_wait_in_the_clients_own_buffer() {
    in_runtime(async {
        let mut limits = limits();
        limits.in_flight = 2;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        let bytes = requests(&["SELECT 1", "GET a", "GET b", "GET c", "PING"]);
        engine.client_input(peer.index, &bytes);
        assert_eq!(engine.clients[peer.index].pause, Pause::Limits);
        assert!(engine.held_bytes > 0);
        for _ in 0..3 {
            engine.refuse_queued(LINK, "CLUSTERDOWN", "its node is down");
            engine.resume_input(peer.index);
        }
        let got = String::from_utf8(peer.read_all(&mut engine, 100).await).unwrap();
        assert_eq!(got.matches("-CLUSTERDOWN ").count(), 3, "{got}");
        assert!(got.ends_with("+PONG\r\n"), "{got}");
        assert_settled(&engine, &peer);
    });
}

#[test]
fn a_protocol_change_waits_for_what_was_asked_before() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let bytes = requests(&["SELECT 1", "GET a", "HELLO 3", "PING"]);
        engine.client_input(peer.index, &bytes);
        assert_eq!(engine.clients[peer.index].pause, Pause::Barrier);
        engine.resume_input(peer.index);
        assert_eq!(engine.clients[peer.index].pause, Pause::Barrier, "not yet");
        engine.refuse_queued(LINK, "CLUSTERDOWN", "its node is down");
        engine.resume_input(peer.index);
        let got = String::from_utf8(peer.read_all(&mut engine, 100).await).unwrap();
        assert!(got.starts_with("+OK\r\n-CLUSTERDOWN "), "{got}");
        assert!(got.contains("\r\n%7\r\n") && got.ends_with("+PONG\r\n"), "{got}");
        assert_settled(&engine, &peer);
    });
}

#[test]
fn requests_over_several_shards_count_with_their_bytes() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let bytes = requests(&["MSET a 1 b 2 c 3"]);
        engine.client_input(peer.index, &bytes);
        assert_eq!(engine.clients[peer.index].request_bytes, bytes.len());
        let parts = take_queued(&mut engine);
        assert_eq!(parts.len(), 3);
        for entry in &parts {
            answer(&mut engine, entry, b"+OK\r\n");
        }
        assert_eq!(peer.read_all(&mut engine, 5).await, b"+OK\r\n");
        assert_settled(&engine, &peer);
    });
}

#[test]
fn one_merged_reply_that_is_too_large_is_an_error_and_several_close_their_client() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_hard = 100_000;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        engine.client_input(peer.index, &requests(&["KEYS *"]));
        for entry in take_queued(&mut engine) {
            answer(&mut engine, &entry, &keys_reply(60_000));
        }
        let got = String::from_utf8(peer.read_all(&mut engine, 10).await).unwrap();
        assert!(got.starts_with("-ERR the reply is larger"), "{got}");
        assert_settled(&engine, &peer);
        assert_eq!(engine.metrics.limits[Limit::ReplyBytes].load(), 1);

        engine.client_input(peer.index, &requests(&["KEYS *", "KEYS *", "KEYS *"]));
        let parts = take_queued(&mut engine);
        for entry in parts.iter().filter(|entry| entry.shard.0 == 0) {
            assert_eq!(engine.clients[peer.index].closed, None);
            answer(&mut engine, entry, &keys_reply(90_000));
        }
        assert_eq!(engine.clients[peer.index].closed, Some(Disconnect::OutputLimit));
        for entry in parts.iter().filter(|entry| entry.shard.0 > 0) {
            answer(&mut engine, entry, &keys_reply(1));
        }
        assert!(engine.gathers.is_empty(), "gathers end without their client");
    });
}

#[test]
fn a_gather_whose_client_left_ends_and_answers_nobody() {
    in_runtime(async {
        let mut engine = engine(limits());
        let gone = connect(&mut engine).await;
        engine.client_input(gone.index, &requests(&["MGET a b c", "DBSIZE"]));
        let parts = take_queued(&mut engine);
        engine.remove_client(gone.index, Disconnect::Client);
        let mut next = connect(&mut engine).await;
        assert_eq!(next.index, gone.index);
        engine.client_input(next.index, &requests(&["DBSIZE"]));
        let own = take_queued(&mut engine);
        for entry in &parts {
            answer(&mut engine, entry, b":1000\r\n");
        }
        assert_eq!(engine.gathers.len(), 1, "only the new client's is left");
        for entry in &own {
            answer(&mut engine, entry, b":2\r\n");
        }
        assert_eq!(next.read_all(&mut engine, 5).await, b":16\r\n");
        assert_settled(&engine, &next);
    });
}

#[test]
fn a_merged_reply_that_is_too_large_is_not_kept_until_its_last_part_has_come() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_hard = 100_000;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        engine.client_input(peer.index, &requests(&["KEYS *"]));
        let parts = take_queued(&mut engine);
        for (number, entry) in parts.iter().enumerate() {
            answer(&mut engine, entry, &keys_reply(60_000));
            let held = engine.clients[peer.index].gathered;
            assert!(held <= 100_000, "{held} bytes behind part {number}");
            assert!(number == 0 || held == 0, "{held} bytes that nobody will get");
        }
        let got = String::from_utf8(peer.read_all(&mut engine, 10).await).unwrap();
        assert!(got.starts_with("-ERR the reply is larger"), "{got}");
        assert_settled(&engine, &peer);
    });
}

#[test]
fn what_is_asked_in_waves_is_not_overtaken_by_what_its_client_asks_behind_it() {
    in_runtime(async {
        let mut engine = engine_of(limits(), 512);
        for first in ["FLUSHALL", "FLUSHDB", "KEYS *", "DBSIZE"] {
            let mut peer = connect(&mut engine).await;
            engine.client_input(peer.index, &requests(&["SET x 1", first, "SET x 2"]));
            // Behind what is under way, and then alone.
            let sets = take_queued(&mut engine);
            let [
                Entry {
                    owner: Owner::Client { seq, .. },
                    ..
                },
            ] = sets[..]
            else {
                panic!("{first} went beside {sets:?}");
            };
            engine.complete(peer.index, peer.generation, seq, b"+OK\r\n", true);
            engine.resume_input(peer.index);
            let mut waves = 0;
            while !engine.gathers.is_empty() {
                let wave = take_queued(&mut engine);
                for entry in &wave {
                    let Owner::Gather { part, .. } = entry.owner else {
                        panic!("SET behind {waves} waves of {first}");
                    };
                    let reply: &[u8] = match first {
                        "DBSIZE" if part % 3 == 0 => b":0\r\n",
                        // Of DBSIZE the names of counters.
                        "DBSIZE" | "KEYS *" => b"*0\r\n",
                        _ => b"+OK\r\n",
                    };
                    answer(&mut engine, entry, reply);
                }
                waves += 1;
            }
            assert!(waves > 1, "{first}");
            peer.read_all(&mut engine, 4).await;
            engine.resume_input(peer.index);
            let behind = take_queued(&mut engine);
            assert!(
                matches!(
                    behind[..],
                    [Entry {
                        owner: Owner::Client { .. },
                        ..
                    }]
                ),
                "{behind:?}"
            );
            engine.remove_client(peer.index, Disconnect::Client);
        }
        // What goes in one wave is in front of what comes later, shard by shard.
        let mut engine = engine_of(limits(), 8);
        let peer = connect(&mut engine).await;
        engine.client_input(peer.index, &requests(&["FLUSHALL", "SET x 2"]));
        assert_eq!(take_queued(&mut engine).len(), 8 + 2 + 1);
    });
}

#[test]
fn an_unblock_that_waits_for_answers_counts_once() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        engine.client_input(peer.index, &requests(&["EVAL return(1) 1 a", "CLIENT UNBLOCK 7"]));
        (0..3).for_each(|_| engine.resume_input(peer.index));
        let script = take_queued(&mut engine);
        assert_eq!(engine.clients[peer.index].commands, 1);
        let Owner::Client { seq, .. } = script[0].owner else {
            panic!("{script:?}");
        };
        engine.complete(peer.index, peer.generation, seq, b":1\r\n", true);
        engine.resume_input(peer.index);
        assert_eq!(peer.read_all(&mut engine, 8).await, b":1\r\n:0\r\n");
        assert_eq!(engine.clients[peer.index].commands, 2);
    });
}
