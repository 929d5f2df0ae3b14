//! Connections without sockets: which of them end when shards go elsewhere, and how.

use std::collections::BTreeSet;

use super::*;
use crate::command::testing::request;
use crate::command::{CommandId, lookup};
use crate::metrics::RequestClass;
use crate::topology::{ChangeError, NodeAccess, Topology, Unit};
use crate::worker::session::{SLACK, to_u32};
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

mod left;

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
        recalled_at: 0,
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

/// A topology in which the shard has a user of its own is in force.
fn in_unit(engine: &mut Engine) {
    with_unit(engine);
    engine.continue_adoption();
    assert!(is_adopted(engine));
}

fn user(engine: &mut Engine, dedicated: Dedicated) -> String {
    let slot = engine.dedicated.slot(dedicated).unwrap();
    slot.user.as_deref().unwrap_or_default().to_owned()
}

#[test]
fn who_waits_or_watches_in_a_unit_does_so_as_its_user_and_no_other() {
    in_runtime(async {
        let mut engine = engine(limits());
        in_unit(&mut engine);
        let acquire = |engine: &mut Engine, shard| engine.acquire_dedicated(shard, Protocol::Resp2).unwrap();
        let (moves, stays) = (acquire(&mut engine, MOVED), acquire(&mut engine, STAYS));
        assert_eq!(
            (user(&mut engine, moves), user(&mut engine, stays)),
            ("ps-u-m1".to_owned(), "ps-g2".to_owned())
        );
        engine.dedicated_answered(stays);
        assert_ne!(acquire(&mut engine, MOVED), stays, "it is another user's");
        assert_eq!(engine.acquire_at(NodeIndex(0), Protocol::Resp2).unwrap(), stays);
    });
}

#[test]
fn what_a_unit_is_refused_has_not_run_and_the_unit_is_held() {
    in_runtime(async {
        let mut engine = engine(limits());
        in_unit(&mut engine);
        let waiting = waits(&mut engine, MOVED);
        let frozen = |engine: &mut Engine, reply: &[u8]| {
            let slot = engine.dedicated.slot(waiting).unwrap();
            slot.is_frozen(reply)
        };
        assert!(frozen(
            &mut engine,
            b"-NOPERM User ps-u-m1 has no permissions\r\n"
        ));
        assert!(frozen(
            &mut engine,
            b"-EXECABORT Transaction discarded because of: NOPERM\r\n"
        ));
        assert!(!frozen(
            &mut engine,
            b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        ));
        assert_eq!(engine.dedicated_refused(waiting), RECALLED);
        assert!(engine.is_held(MOVED) && !engine.is_held(STAYS));
        let watching = engine.acquire_dedicated(MOVED, Protocol::Resp2).unwrap();
        assert_eq!(engine.dedicated_refused(watching), FROZEN);
    });
}

/// A connection over which somebody waits as the request says; the client is there.
async fn someone_waits(engine: &mut Engine, words: &[&[u8]], deadline: u64) -> (Peer, Dedicated) {
    let peer = connect(engine).await;
    let at = waits(engine, MOVED);
    let generation = engine.clients[peer.index].generation;
    let seq = engine.push_slot(peer.index, CommandId::NONE, 1, RequestClass::Blocking);
    let again = request(words, |args| Waiting::of(lookup(words[0]).unwrap(), &args));
    let job = engine.dedicated.slot(at).unwrap().job.as_mut().unwrap();
    job.owner = Some((to_u32(peer.index), generation, seq));
    job.again = again.map(Box::new);
    job.since = engine.now;
    job.deadline = Some(deadline);
    (peer, at)
}

#[test]
fn a_wait_that_was_long_before_it_was_given_up_is_asked_again_after_the_hold() {
    in_runtime(async {
        let mut engine = engine(limits());
        let hold = u64::try_from(engine.settings.limits.hold.as_micros()).unwrap();
        let (_peer, at) = someone_waits(&mut engine, &[b"BLPOP", b"queue", b"0"], 100 * hold).await;
        engine.now = 10 * hold;
        engine.hold(MOVED, |why| why.moving = true);
        engine.dedicated_ended(at, RECALLED);
        engine.ask_recalled();
        assert_eq!(
            engine.dedicated.recalled.len(),
            1,
            "it waits for the end of the hold"
        );
        engine.now += hold;
        engine.ask_recalled();
        assert_eq!(engine.dedicated.recalled.len(), 0, "not for ever");
    });
}

#[test]
fn a_wait_that_was_held_beyond_its_end_is_asked_again_with_time_for_the_answer() {
    in_runtime(async {
        let mut engine = engine(limits());
        let begun = engine.now;
        let words: [&[u8]; 3] = [b"BLPOP", b"queue", b"1"];
        let (peer, at) = someone_waits(&mut engine, &words, begun + 2_000_000).await;
        engine.hold(MOVED, |why| why.moving = true);
        engine.dedicated_ended(at, RECALLED);
        engine.now = begun + 6_000_000;
        engine.release(MOVED, |why| why.moving = false);
        engine.ask_recalled();
        let at = engine.clients[peer.index].waits_at.expect("it is asked again");
        let now = engine.now;
        let job = engine.dedicated.slot(at).unwrap().job.as_ref().unwrap();
        assert!(
            job.bytes.ends_with(b"$5\r\n0.010\r\n"),
            "what is left of its wait"
        );
        let slack = u64::try_from(SLACK.as_micros()).unwrap();
        assert_eq!(job.deadline, Some(now + 10_000 + slack));
    });
}

#[test]
fn a_watch_that_is_under_way_when_its_shard_goes_watches_nothing() {
    in_runtime(async {
        let mut engine = engine(limits());
        let at = waits(&mut engine, MOVED);
        let job = engine.dedicated.slot(at).unwrap().job.as_mut().unwrap();
        job.again = None;
        engine.pin_dedicated(at, Some((0, 0)));
        engine.recall_shards(|shard| shard == MOVED);
        let slot = engine.dedicated.slot(at).unwrap();
        assert!(slot.pinned.is_none() && slot.spoilt && slot.end == End::No);
        engine.dedicated_answered(at);
        assert_eq!(end(&mut engine, at), End::Close);
    });
}

#[test]
fn what_does_not_wait_keeps_the_next_topology_no_longer_than_a_silent_node_where_requests_have_no_deadline() {
    in_runtime(async {
        let mut engine = engine(limits());
        let silence_max = engine.settings.limits.silence_max_us;
        let [exec, soon, waiting, replicas] = [0; 4].map(|_| waits(&mut engine, MOVED));
        let job = |engine: &mut Engine, at, deadline| {
            let job = engine.dedicated.slot(at).unwrap().job.as_mut().unwrap();
            (job.again, job.deadline) = (None, deadline);
        };
        let now = engine.now;
        job(&mut engine, exec, None);
        job(&mut engine, soon, Some(now + 1));
        job(&mut engine, replicas, None);
        let of_replicas = engine.dedicated.slot(replicas).unwrap();
        of_replicas.job.as_mut().unwrap().keeps_all = true;
        change(&mut engine, committed);
        assert!(!is_adopted(&engine), "all are under way");
        let [exec, soon, waiting, replicas] = [exec, soon, waiting, replicas].map(|at| {
            let slot = engine.dedicated.slot(at).unwrap();
            slot.job.as_ref().unwrap().deadline
        });
        assert_eq!((exec, soon), (Some(now + silence_max), Some(now + 1)));
        assert_eq!(waiting, None, "the node is told to end it");
        assert_eq!(replicas, None, "`WAIT 1 0` keeps nothing, and waits for ever");
    });
}
