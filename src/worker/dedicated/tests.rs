//! Connections without sockets: which of them end when shards go elsewhere, and how.

use std::collections::BTreeSet;

use super::*;
use crate::command::lookup;
use crate::command::testing::request;
use crate::topology::{ChangeError, NodeAccess, Topology, Unit};
use crate::worker::testing::{engine, in_runtime, limits};

/// The shard that moves; the other one stays on the same node.
const MOVED: ShardId = ShardId(1);
const STAYS: ShardId = ShardId(2);

fn change(engine: &mut Engine, change: impl FnOnce(&Topology) -> Result<Topology, ChangeError>) {
    let next = change(&engine.shared.topology.load()).unwrap();
    engine.shared.adopt(next).unwrap();
    engine.adopt();
}

/// What a move is preceded by: a user for the shard that moves, another one for the rest.
fn with_unit(engine: &mut Engine) {
    change(engine, |topology| {
        let access = NodeAccess {
            user: "ps-g2".to_owned(),
            run_id: "r".to_owned(),
        };
        let next = topology.with_access(&[("node-1".to_owned(), Some(access))])?;
        next.with_unit(Unit {
            task: "m1".to_owned(),
            shards: BTreeSet::from([MOVED]),
            user: Some("ps-u-m1".to_owned()),
            quiesced: false,
        })
    });
}

fn committed(topology: &Topology) -> Result<Topology, ChangeError> {
    topology.changed(|next| {
        next.units.clear();
        next.placements[MOVED.index()].node = NodeIndex(1);
        Ok(())
    })
}

/// A connection that waits for an element of a list there.
fn waits(engine: &mut Engine, shard: ShardId) -> Dedicated {
    let words: [&[u8]; 3] = [b"BLPOP", b"queue", b"0"];
    let again = request(&words, |args| Waiting::of(lookup(b"blpop").unwrap(), &args));
    let at = engine.acquire_dedicated(shard, Protocol::Resp2).unwrap();
    let job = Job {
        owner: None,
        shard,
        db: engine.topology.placement(shard).db,
        name: "blpop",
        bytes: Vec::new(),
        frames: 1,
        prefaces: 0,
        keeps_all: false,
        fenced: false,
        transaction: false,
        again: Some(Box::new(again.unwrap())),
        since: 0,
        deadline: None,
    };
    engine.ask_dedicated(at, job);
    at
}

fn is_adopted(engine: &Engine) -> bool {
    engine.shared.epoch_served() == engine.shared.topology.load().epoch
}

fn end(engine: &mut Engine, dedicated: Dedicated) -> End {
    engine.dedicated.slot(dedicated).unwrap().end
}

#[test]
fn who_waits_in_a_shard_that_stays_is_not_disturbed_when_another_one_goes() {
    in_runtime(async {
        let mut engine = engine(limits());
        with_unit(&mut engine);
        let stays = waits(&mut engine, STAYS);
        change(&mut engine, committed);
        assert!(is_adopted(&engine));
        assert_eq!(end(&mut engine, stays), End::No, "its user is the node's");
    });
}

#[test]
fn who_waits_as_a_user_that_goes_is_told_by_the_node_that_the_wait_is_over() {
    in_runtime(async {
        let mut engine = engine(limits());
        let (stays, moved) = (waits(&mut engine, STAYS), waits(&mut engine, MOVED));
        let idle = engine.acquire_dedicated(STAYS, Protocol::Resp2).unwrap();
        engine.dedicated_answered(idle);
        with_unit(&mut engine);
        assert!(!is_adopted(&engine), "both are under way");
        assert_eq!(
            (end(&mut engine, stays), end(&mut engine, moved)),
            (End::Unblock, End::Unblock)
        );
        engine.dedicated_ended(stays, RECALLED);
        engine.dedicated_ended(moved, RECALLED);
        engine.continue_adoption();
        assert!(is_adopted(&engine));
        assert_eq!(end(&mut engine, idle), End::Close);
        let next = engine.acquire_dedicated(STAYS, Protocol::Resp2).unwrap();
        assert_ne!(next, idle, "the next one is another user's");
    });
}

#[test]
fn an_order_to_end_a_wait_never_reaches_another_node() {
    in_runtime(async {
        let mut engine = engine(limits());
        let moved = waits(&mut engine, MOVED);
        let [before, ..] = engine.links_of(MOVED);
        engine.end_wait(moved);
        assert_eq!(engine.links[before].backlog.len(), 1);
        change(&mut engine, committed);
        engine.dedicated_ended(moved, RECALLED);
        engine.continue_adoption();
        assert!(is_adopted(&engine));
        let [after, ..] = engine.links_of(MOVED);
        assert_eq!(
            (
                engine.links[before].backlog.len(),
                engine.links[after].backlog.len()
            ),
            (0, 0)
        );
    });
}

fn readdressed(topology: &Topology) -> Result<Topology, ChangeError> {
    topology.with_address("node-1", "127.0.0.1:9".parse().unwrap())
}

#[test]
fn a_node_that_gets_another_address_ends_what_waits_there_before_its_connections_go() {
    in_runtime(async {
        let mut engine = engine(limits());
        let (waiting, idle) = (
            waits(&mut engine, MOVED),
            engine.acquire_dedicated(STAYS, Protocol::Resp2).unwrap(),
        );
        engine.dedicated_answered(idle);
        change(&mut engine, readdressed);
        assert!(!is_adopted(&engine), "the old server has not answered");
        assert_eq!(
            (end(&mut engine, waiting), end(&mut engine, idle)),
            (End::Unblock, End::No)
        );
        assert!(
            engine.is_held(MOVED) && engine.is_held(STAYS),
            "nobody begins to wait"
        );
        let [link, _, script, _] = engine.links_of(MOVED);
        assert!(
            !engine.is_gate(link) && engine.is_gate(script),
            "all else goes on"
        );
        engine.dedicated_ended(waiting, RECALLED);
        engine.continue_adoption();
        assert!(is_adopted(&engine) && !engine.is_held(MOVED) && !engine.is_held(STAYS));
        assert_eq!(end(&mut engine, idle), End::Close);
    });
}

#[test]
fn a_node_that_does_not_end_what_waits_there_is_left_soon_and_gets_no_order_at_its_new_address() {
    in_runtime(async {
        let mut engine = engine(limits());
        let waiting = waits(&mut engine, MOVED);
        change(&mut engine, readdressed);
        engine.end_wait(waiting);
        let [link, ..] = engine.links_of(MOVED);
        assert_eq!(engine.links[link].backlog.len(), 1);
        engine.now += 300_000;
        engine.continue_adoption();
        assert!(is_adopted(&engine), "it is not waited for any longer");
        assert_eq!(end(&mut engine, waiting), End::Recall);
        assert_eq!(engine.links[link].backlog.len(), 0);
    });
}

#[test]
fn a_node_that_is_down_is_not_asked_to_end_what_waits_there() {
    in_runtime(async {
        let mut engine = engine(limits());
        let waiting = waits(&mut engine, MOVED);
        let [link, ..] = engine.links_of(MOVED);
        engine.link_down(link);
        change(&mut engine, readdressed);
        assert!(is_adopted(&engine));
        assert_eq!(end(&mut engine, waiting), End::Recall);
    });
}
