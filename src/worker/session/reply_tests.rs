//! The reply queue: whatever the order in which replies come, they leave in the order that was asked.

use proptest::prelude::*;

use crate::command::CommandId;
use crate::metrics::{Disconnect, RequestClass};
use crate::worker::engine::Engine;
use crate::worker::session::Special;
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

/// What a client asks for.
#[derive(Clone, Debug)]
enum Asked {
    /// Answered by the proxy at once.
    Local,
    /// Answered by a node with so many bytes, some time.
    Node(usize),
    /// Answered by a node in pieces once it is its turn.
    Pieces(usize),
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        1 => Just(Asked::Local),
        6 => (1_usize..100).prop_map(Asked::Node),
        1 => (4000_usize..5000).prop_map(Asked::Node),
        1 => (1_usize..200_000).prop_map(Asked::Pieces),
    ]
}

fn reply(number: usize, length: usize) -> Vec<u8> {
    let mut reply = format!("+{number}:").into_bytes();
    reply.resize(reply.len() + length, b"abcdefghij"[number % 10]);
    reply.extend_from_slice(b"\r\n");
    reply
}

/// Takes one request in; returns what it is to be answered later, if that is not now.
fn ask(engine: &mut Engine, peer: &Peer, number: usize, asked: &Asked) -> Option<u32> {
    match asked {
        Asked::Local => {
            engine.answer(peer.index, &reply(number, 3), RequestClass::Local);
            None
        }
        Asked::Node(_) | Asked::Pieces(_) => {
            Some(engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read))
        }
    }
}

fn settle(engine: &mut Engine, peer: &Peer, number: usize, seq: u32, asked: &Asked) {
    match asked {
        Asked::Local => {}
        Asked::Node(length) => {
            engine.complete(peer.index, peer.generation, seq, &reply(number, *length), true);
        }
        Asked::Pieces(length) => {
            let reply = reply(number, *length);
            if engine.is_turn_of(peer.index, seq) {
                let (first, rest) = reply.split_at(reply.len() / 2);
                assert!(engine.append_piece(peer.index, peer.generation, seq, first));
                assert!(engine.append_piece(peer.index, peer.generation, seq, rest));
                engine.complete(peer.index, peer.generation, seq, b"", true);
            } else {
                engine.complete(peer.index, peer.generation, seq, &reply, true);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replies_leave_in_the_order_asked(
        requests in prop::collection::vec((asked(), any::<u32>(), any::<bool>(), prop::bool::weighted(0.2)), 1..60),
    ) {
        in_runtime(async {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            let mut expected = Vec::new();
            let mut due = Vec::new();
            for (number, (asked, rank, _, silent)) in requests.iter().enumerate() {
                let length = match asked {
                    Asked::Local => 3,
                    Asked::Node(length) | Asked::Pieces(length) => *length,
                };
                // `CLIENT REPLY OFF`, for this request.
                let special = &mut engine.clients[peer.index].special;
                special.unset(Special::SILENT);
                if *silent {
                    special.set(Special::SILENT);
                } else {
                    expected.extend(reply(number, length));
                }
                if let Some(seq) = ask(&mut engine, &peer, number, asked) {
                    due.push((*rank, number, seq));
                }
            }
            due.sort_unstable();
            for (_, number, seq) in due {
                let (asked, _, turn_ends, _) = &requests[number];
                settle(&mut engine, &peer, number, seq, asked);
                if *turn_ends {
                    engine.begin_turn();
                    engine.end_turn();
                }
            }
            engine.end_turn();
            let got = peer.read_all(&mut engine, expected.len()).await;
            prop_assert!(got == expected, "replies out of order or mangled");
            let client = &engine.clients[peer.index];
            prop_assert!(client.slots.is_empty());
            prop_assert_eq!((client.request_bytes, client.parked_live, client.output_bytes()), (0, 0, 0));
            Ok(())
        })?;
    }
}

#[test]
fn an_empty_reply_may_wait_longer_than_the_arena_that_it_came_to() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let ask = |engine: &mut Engine, silent: bool| {
            let special = &mut engine.clients[peer.index].special;
            special.unset(Special::SILENT);
            if silent {
                special.set(Special::SILENT);
            }
            engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read)
        };
        let [first, second, third] = [false, false, false].map(|silent| ask(&mut engine, silent));
        let silent = ask(&mut engine, true);
        let last = ask(&mut engine, false);
        let mut complete = |seq, reply: &[u8]| {
            engine.complete(peer.index, peer.generation, seq, reply, true);
        };
        complete(second, b"+two\r\n");
        complete(silent, b"+never seen\r\n");
        complete(first, b"+one\r\n");
        complete(last, b"+4\r\n");
        complete(third, b"+three\r\n");
        engine.end_turn();
        let expected = b"+one\r\n+two\r\n+three\r\n+4\r\n";
        assert_eq!(peer.read_all(&mut engine, expected.len()).await, expected);
    });
}

#[test]
fn a_reply_for_somebody_who_left_finds_nobody() {
    in_runtime(async {
        let mut engine = engine(limits());
        let gone = connect(&mut engine).await;
        let seq = engine.push_slot(gone.index, CommandId::NONE, 10, RequestClass::Read);
        engine.remove_client(gone.index, Disconnect::Client);
        let mut next = connect(&mut engine).await;
        assert_eq!(next.index, gone.index, "the place is used again");
        assert_eq!(
            engine.push_slot(next.index, CommandId::NONE, 10, RequestClass::Read),
            seq
        );
        engine.complete(gone.index, gone.generation, seq, b"+theirs\r\n", true);
        assert!(!engine.append_piece(gone.index, gone.generation, seq, b"+theirs"));
        engine.close_client(gone.index, gone.generation, Disconnect::PartialReply);
        engine.complete(next.index, next.generation, seq, b"+ours\r\n", true);
        assert_eq!(next.read_all(&mut engine, 7).await, b"+ours\r\n");
    });
}

#[test]
fn a_reply_that_comes_twice_is_given_once() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        let first = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        let second = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        engine.complete(peer.index, peer.generation, first, b"+1\r\n", true);
        engine.complete(peer.index, peer.generation, first, b"+1\r\n", true);
        engine.complete(peer.index, peer.generation, second, b"+2\r\n", true);
        assert_eq!(peer.read_all(&mut engine, 8).await, b"+1\r\n+2\r\n");
        assert_eq!(engine.clients[peer.index].request_bytes, 0);
    });
}

#[test]
fn a_client_that_is_being_closed_gets_not_a_byte_more() {
    in_runtime(async {
        let mut engine = engine(limits());
        let peer = connect(&mut engine).await;
        let first = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        let second = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        assert!(engine.append_piece(peer.index, peer.generation, first, b"$100000\r\nhalf of it"));
        let sent = engine.metrics.transmit_bytes.load();
        engine.close_client(peer.index, peer.generation, Disconnect::PartialReply);
        engine.complete(peer.index, peer.generation, first, b"", true);
        engine.complete(peer.index, peer.generation, second, &reply(2, 10_000), true);
        engine.end_turn();
        assert_eq!(engine.metrics.transmit_bytes.load(), sent);
        assert!(engine.clients[peer.index].out.is_empty());
    });
}

#[test]
fn parked_replies_beyond_the_hard_limit_close_their_client() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_hard = 10_000;
        let mut engine = engine(limits);
        let peer = connect(&mut engine).await;
        let _ = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        let late: Vec<u32> = (0..20)
            .map(|_| engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read))
            .collect();
        for seq in late {
            engine.complete(peer.index, peer.generation, seq, &reply(1, 1000), true);
        }
        let client = &engine.clients[peer.index];
        assert_eq!(client.closed, Some(Disconnect::OutputLimit));
        assert_eq!(client.output_bytes(), 0, "what it holds is freed at once");
    });
}

#[test]
fn a_client_that_was_quiet_for_long_is_not_stalled_by_its_first_large_reply() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_stall = std::time::Duration::from_micros(1);
        let mut engine = engine(limits);
        let peer = connect(&mut engine).await;
        engine.now += 3_600_000_000;
        let seq = engine.push_slot(peer.index, CommandId::NONE, 10, RequestClass::Read);
        engine.complete(peer.index, peer.generation, seq, &reply(1, 32 << 20), true);
        engine.end_turn();
        let client = &engine.clients[peer.index];
        assert!(client.write_blocked, "a socket that takes 32 MiB at once");
        assert_eq!(client.progress_at, engine.now);
    });
}
