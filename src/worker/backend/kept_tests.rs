//! What a node refuses because its shard is on its way: nothing is lost, doubled or overtaken, and nothing that may have run is
//! sent again.

use std::collections::BTreeSet;

use crate::ids::{NodeIndex, ShardId};
use crate::metrics::LinkClose;
use crate::resp::Protocol;
use crate::topology::{NodeAccess, Topology, Unit};
use crate::worker::backend::{Entry, Owner, Shape, State};
use crate::worker::engine::Engine;
use crate::worker::outbuf::{LARGE_BYTES, Spares};
use crate::worker::testing::{engine, in_runtime, limits};

const MOVED: ShardId = ShardId(1);
const REFUSED: &[u8] = b"-NOPERM this user has no permissions to run the 'set' command\r\n";

fn adopt(engine: &mut Engine, change: impl FnOnce(&mut Topology)) {
    let next = engine.shared.topology.load().changed(|next| {
        change(next);
        Ok(())
    });
    engine.shared.adopt(next.unwrap()).unwrap();
    engine.adopt();
    engine.end_turn();
}

/// A worker whose shards 1 and 2 are a unit; the link that they go over.
fn with_unit() -> (Engine, usize) {
    let mut engine = engine(limits());
    adopt(&mut engine, |next| {
        for node in [0, 1] {
            let access = NodeAccess {
                user: "ps-g1".to_owned(),
                run_id: "r".to_owned(),
            };
            next.access.insert(NodeIndex(node), access);
        }
        next.units.push(Unit {
            task: "m1".to_owned(),
            shards: BTreeSet::from([MOVED, ShardId(2)]),
            user: Some("ps-u-m1-1-0".to_owned()),
            quiesced: true,
        });
    });
    let link = link_of(&engine, MOVED);
    assert!(engine.links[link].kept.is_some());
    engine.links[link].state = State::Ready;
    (engine, link)
}

fn link_of(engine: &Engine, shard: ShardId) -> usize {
    engine.lane(shard, Protocol::Resp2).link as usize
}

fn frame(seq: u32) -> Vec<u8> {
    // Every third one is large.
    let length = if seq.is_multiple_of(3) { LARGE_BYTES } else { 3 };
    format!("*2\r\n$3\r\nGET\r\n${length}\r\n{seq:0length$}\r\n").into_bytes()
}

fn ask(engine: &mut Engine, shard: ShardId, seq: u32) {
    let owner = Owner::Client {
        index: 0,
        generation: 0,
        seq,
    };
    let lane = engine.lane(shard, Protocol::Resp2);
    engine.enqueue(lane, owner, &frame(seq));
}

/// Sends all that waits on a link, as if a socket had taken it.
fn send(engine: &mut Engine, link: usize) {
    let link = &mut engine.links[link];
    let mut spares = Spares::default();
    while !link.backlog.is_empty() {
        link.due_bytes += link.send_front((usize::MAX, usize::MAX), &mut spares);
    }
    link.out.clear(&mut spares);
}

fn answer(engine: &mut Engine, link: usize, replies: &[&[u8]]) {
    engine.link_input(link, &replies.concat()).unwrap();
    engine.end_turn();
}

/// Everything that waits for a shard, checked to be what was asked: its numbers.
fn waiting(engine: &mut Engine, shard: ShardId) -> Vec<u32> {
    let link = link_of(engine, shard);
    let chain = engine.links[link].backlog.take_chain(shard);
    let number = |(entry, bytes): (Entry, bytes::Bytes)| match entry.owner {
        Owner::Client { seq, .. } => {
            assert!(bytes == frame(seq), "the bytes of {seq} are another's");
            seq
        }
        Owner::Gather { .. } | Owner::Select | Owner::Tombstone | Owner::Order => panic!("{entry:?}"),
    };
    chain.into_iter().map(number).collect()
}

fn moved(next: &mut Topology) {
    next.units.clear();
    next.placements[MOVED.index()].node = NodeIndex(1);
    next.placements[2].node = NodeIndex(1);
}

#[test]
fn what_the_node_refuses_goes_to_the_next_one_in_order_and_what_it_ran_does_not() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        for seq in 1..=6 {
            ask(&mut engine, MOVED, seq);
        }
        ask(&mut engine, ShardId(2), 20);
        send(&mut engine, link);
        ask(&mut engine, MOVED, 7);
        ask(&mut engine, ShardId(2), 21);
        answer(&mut engine, link, &[b"+OK\r\n", b"-ERR another\r\n", REFUSED]);
        assert!(engine.is_gate(link_of(&engine, MOVED)) && engine.is_gate(link_of(&engine, ShardId(2))));
        ask(&mut engine, MOVED, 8);
        adopt(&mut engine, moved);
        assert!(
            engine.adoption.is_some(),
            "the node has not answered everything, and may have run it"
        );
        answer(&mut engine, link, &[REFUSED, REFUSED, REFUSED, REFUSED]);
        assert!(engine.adoption.is_none());
        let after = link_of(&engine, MOVED);
        assert_eq!(engine.links[after].node, NodeIndex(1));
        assert_eq!(waiting(&mut engine, MOVED), [3, 4, 5, 6, 7, 8]);
        assert_eq!(waiting(&mut engine, ShardId(2)), [20, 21]);
    });
}

#[test]
fn a_unit_that_is_given_back_goes_on_where_it_was_as_the_nodes_own_user() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        ask(&mut engine, MOVED, 1);
        send(&mut engine, link);
        answer(&mut engine, link, &[REFUSED]);
        ask(&mut engine, MOVED, 2);
        adopt(&mut engine, |next| next.paused.extend([ShardId(5)]));
        assert!(
            engine.is_gate(link_of(&engine, MOVED)),
            "another change says nothing of it"
        );
        adopt(&mut engine, |next| next.units.clear());
        let back = link_of(&engine, MOVED);
        let user = engine.links[back].user.as_deref();
        assert_eq!((engine.links[back].node, user), (NodeIndex(0), Some("ps-g1")));
        assert_eq!(waiting(&mut engine, MOVED), [1, 2]);
    });
}

#[test]
fn a_refusal_that_was_overtaken_by_a_topology_holds_nothing() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        adopt(&mut engine, moved);
        engine.hold_unit(engine.links[link].user.clone().as_deref());
        assert!(!engine.is_held(MOVED), "it lives elsewhere");
        let back = ShardId(3);
        engine.hold_unit(engine.links[link_of(&engine, back)].user.clone().as_deref());
        assert!(!engine.is_held(back), "the node's own user is no unit's");
    });
}

#[test]
fn what_is_due_when_the_connection_ends_may_have_run_and_is_not_sent_again() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        (1..=4).for_each(|seq| ask(&mut engine, MOVED, seq));
        send(&mut engine, link);
        answer(&mut engine, link, &[REFUSED]);
        let wire = engine.links[link].wire();
        engine.links[link].cells.link_opened(wire);
        engine.link_closed(link, LinkClose::Eof);
        ask(&mut engine, MOVED, 5);
        adopt(&mut engine, moved);
        assert_eq!(waiting(&mut engine, MOVED), [1, 5]);
    });
}

#[test]
fn a_request_that_was_given_up_on_is_not_sent_again_though_it_is_refused() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        (1..=3).for_each(|seq| ask(&mut engine, MOVED, seq));
        send(&mut engine, link);
        engine.links[link].due[1].owner = Owner::Tombstone;
        answer(&mut engine, link, &[REFUSED, REFUSED, REFUSED]);
        adopt(&mut engine, moved);
        assert_eq!(waiting(&mut engine, MOVED), [1, 3]);
    });
}

#[test]
fn a_transaction_is_judged_by_what_exec_answers() {
    in_runtime(async {
        let (mut engine, link) = with_unit();
        let aborted = b"-EXECABORT Transaction discarded because of: NOPERM this user has no permissions\r\n";
        let transactions: [[&[u8]; 3]; 3] = [
            [
                b"+OK\r\n",
                b"-ERR syntax\r\n",
                b"-EXECABORT Transaction discarded because of previous errors.\r\n",
            ],
            [b"+OK\r\n", b"+QUEUED\r\n", aborted],
            [REFUSED, REFUSED, REFUSED],
        ];
        for seq in 1..=3 {
            let lane = engine.lane(MOVED, Protocol::Resp2);
            let frame = frame(seq * 3 + 1);
            let entry = Entry {
                owner: Owner::Client {
                    index: 0,
                    generation: 0,
                    seq: seq * 3 + 1,
                },
                bytes: u32::try_from(frame.len()).unwrap(),
                since: 0,
                shard: MOVED,
                large: false,
                shape: Shape::Transaction,
                frames: 3,
            };
            engine.enqueue_entry(lane, entry, &frame);
        }
        send(&mut engine, link);
        answer(&mut engine, link, &transactions.concat());
        adopt(&mut engine, moved);
        assert_eq!(waiting(&mut engine, MOVED), [7, 10]);
    });
}
