//! Workers without sockets towards nodes: where requests wait, and when what is in force.

use std::time::Duration;

use super::*;
use crate::command::CommandId;
use crate::ids::Epoch;
use crate::metrics::RequestClass;
use crate::resp::Protocol;
use crate::topology::{ChangeError, NodeAccess, Unit};
use crate::worker::backend::{Batch, Entry, Owner};
use crate::worker::shared::Limits;
use crate::worker::testing::{connect, engine, in_runtime, limits};

const MOVED: ShardId = ShardId(1);

fn ask(engine: &mut Engine, shard: ShardId, seq: u32) {
    let owner = Owner::Client {
        index: 0,
        generation: 0,
        seq,
    };
    let lane = engine.lane(shard, Protocol::Resp2);
    let frame = format!("*2\r\n$3\r\nGET\r\n$3\r\n{seq:03}\r\n");
    engine.enqueue(lane, owner, frame.as_bytes());
}

/// Sends all that waits for a node, without a socket.
fn send(engine: &mut Engine, link: usize) {
    let link = &mut engine.links[link];
    while let Some(entry) = link.backlog.pop() {
        link.due_bytes += entry.bytes as usize;
        link.due.push_back(entry);
    }
}

fn seqs<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<u32> {
    let seq = |entry: &Entry| match entry.owner {
        Owner::Client { seq, .. } => Some(seq),
        Owner::Gather { .. } | Owner::Select | Owner::Tombstone | Owner::Order => None,
    };
    entries.into_iter().filter_map(seq).collect()
}

fn link_of(engine: &Engine, shard: ShardId) -> usize {
    engine.lane(shard, Protocol::Resp2).link as usize
}

fn change(
    engine: &mut Engine,
    change: impl FnOnce(&Topology) -> Result<Topology, ChangeError>,
) -> (usize, usize) {
    let next = change(&engine.shared.topology.load()).unwrap();
    engine.shared.adopt(next).unwrap();
    engine.adopt()
}

fn moved(topology: &Topology) -> Result<Topology, ChangeError> {
    topology.changed(|next| {
        next.placements[MOVED.index()].node = NodeIndex(1);
        Ok(())
    })
}

#[test]
fn a_shard_changes_its_node_when_nothing_of_it_is_under_way_and_nothing_is_lost_or_overtaken() {
    in_runtime(async {
        let mut engine = engine(limits());
        let before = link_of(&engine, MOVED);
        ask(&mut engine, MOVED, 1);
        ask(&mut engine, ShardId(0), 2);
        send(&mut engine, before);
        ask(&mut engine, MOVED, 3);
        ask(&mut engine, ShardId(0), 4);
        ask(&mut engine, MOVED, 5);
        change(&mut engine, moved);
        assert_eq!(engine.topology.epoch, Epoch(1), "1 is not answered");
        assert!(engine.is_held(MOVED) && !engine.is_held(ShardId(0)));
        ask(&mut engine, MOVED, 6);
        send(&mut engine, before);
        assert_eq!(seqs(&engine.links[before].due), [1, 2, 4], "the others go on");
        engine.links[before].pop_due();
        engine.end_turn();
        assert_eq!(
            (engine.topology.epoch, engine.shared.epoch_served()),
            (Epoch(2), Epoch(2))
        );
        let after = link_of(&engine, MOVED);
        assert_eq!(
            (engine.links[after].node, engine.is_held(MOVED)),
            (NodeIndex(1), false)
        );
        ask(&mut engine, MOVED, 7);
        send(&mut engine, after);
        assert_eq!(seqs(&engine.links[after].due), [3, 5, 6, 7]);
    });
}

#[test]
fn a_request_that_was_given_up_on_may_still_run_so_its_shard_waits_for_its_reply() {
    in_runtime(async {
        let mut engine = engine(limits());
        let before = link_of(&engine, MOVED);
        ask(&mut engine, MOVED, 1);
        send(&mut engine, before);
        engine.links[before].due[0].owner = Owner::Tombstone;
        change(&mut engine, moved);
        assert!(engine.is_held(MOVED));
        let wire = engine.links[before].wire();
        engine.links[before].cells.link_opened(wire);
        engine.link_closed(before, LinkClose::Timeout);
        engine.end_turn();
        assert_eq!(engine.topology.epoch, Epoch(2));
    });
}

#[test]
fn a_paused_shard_waits_and_goes_on_where_it_was() {
    in_runtime(async {
        let mut engine = engine(Limits {
            hold: Duration::from_millis(1),
            ..limits()
        });
        let home = link_of(&engine, MOVED);
        ask(&mut engine, MOVED, 1);
        change(&mut engine, |topology| topology.with_paused(&[MOVED], true));
        ask(&mut engine, MOVED, 2);
        let gate = link_of(&engine, MOVED);
        assert!(engine.is_gate(gate) && engine.links[home].backlog.is_empty());
        assert_eq!(
            (engine.held_requests(), engine.why_held(MOVED)),
            (2, "it is paused")
        );
        change(&mut engine, |topology| topology.with_paused(&[MOVED], false));
        send(&mut engine, home);
        assert_eq!(seqs(&engine.links[home].due), [1, 2]);
        change(&mut engine, |topology| topology.with_paused(&[MOVED], true));
        ask(&mut engine, MOVED, 3);
        engine.now += 5_000;
        engine.expire_held(gate);
        assert_eq!(engine.held_requests(), 0, "it has waited longer than hold_max");
    });
}

#[test]
fn a_shard_that_is_paused_when_it_moves_waits_until_it_is_resumed() {
    in_runtime(async {
        let mut engine = engine(limits());
        change(&mut engine, |topology| topology.with_paused(&[MOVED], true));
        ask(&mut engine, MOVED, 1);
        change(&mut engine, moved);
        assert!(engine.is_held(MOVED));
        change(&mut engine, |topology| topology.with_paused(&[MOVED], false));
        let link = link_of(&engine, MOVED);
        assert_eq!(engine.links[link].node, NodeIndex(1));
        assert_eq!(engine.links[link].backlog.len(), 1);
    });
}

#[test]
fn nodes_come_and_go_and_positions_stay() {
    in_runtime(async {
        let mut engine = engine(limits());
        let links = engine.links.len();
        let address = "127.0.0.1:9".parse().unwrap();
        let new = change(&mut engine, |topology| topology.with_node("node-3", address));
        assert_eq!((new, engine.pubsub.feeds.len()), ((links, 2), 3));
        assert_eq!(engine.links[links].node, NodeIndex(2));
        change(&mut engine, |topology| {
            topology.changed(|next| {
                next.placements[MOVED.index()].node = NodeIndex(2);
                Ok(())
            })
        });
        assert_eq!(engine.links[link_of(&engine, MOVED)].node, NodeIndex(2));
        change(&mut engine, moved);
        change(&mut engine, |topology| topology.without_node("node-3"));
        assert!(engine.has_left(links));
        assert_eq!(engine.topology.node_count(), 2);
        assert_eq!(engine.links[link_of(&engine, ShardId(7))].node, NodeIndex(1));
    });
}

#[test]
fn a_node_with_another_address_gets_nothing_more_over_its_old_connections() {
    in_runtime(async {
        let mut engine = engine(limits());
        let (listener, link) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), 0);
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = crate::worker::stream::Stream::adopt(crate::worker::stream::Accepted::Tcp(socket), None);
        engine.links[link].stream = Some(stream.unwrap());
        engine.links[link].state = State::Ready;
        ask(&mut engine, MOVED, 1);
        send(&mut engine, link);
        let old = engine.topology.node(NodeIndex(0)).address.clone();
        change(&mut engine, |topology| {
            topology.with_address("node-1", "127.0.0.1:9".parse().unwrap())
        });
        assert!(!engine.is_address_of_link(link, &old));
        assert_eq!(engine.link_may_redial(link), None, "a reply is due");
        engine.links[link].pop_due();
        assert_eq!(engine.link_may_redial(link), Some(LinkClose::Readdressed));
    });
}

/// Gives both nodes users, as the first provisioning does.
fn provisioned(topology: &Topology) -> Result<Topology, ChangeError> {
    let access = |user: &str| {
        Some(NodeAccess {
            user: user.to_owned(),
            run_id: "r".to_owned(),
        })
    };
    topology.with_access(&[
        ("node-1".to_owned(), access("ps-g1")),
        ("node-2".to_owned(), access("ps-g1")),
    ])
}

fn unit(quiesced: bool) -> Unit {
    Unit {
        task: "m1".to_owned(),
        shards: BTreeSet::from([MOVED]),
        user: Some("ps-u-m1".to_owned()),
        quiesced,
    }
}

#[test]
fn a_unit_goes_over_links_of_its_own_user_and_its_scripts_wait_when_it_is_quiesced() {
    in_runtime(async {
        let mut engine = engine(limits());
        change(&mut engine, provisioned);
        let user = |engine: &Engine, shard| engine.links[link_of(engine, shard)].user.clone();
        assert_eq!(user(&engine, MOVED).as_deref(), Some("ps-g1"));
        change(&mut engine, |topology| topology.with_unit(unit(false)));
        assert_eq!(user(&engine, MOVED).as_deref(), Some("ps-u-m1"));
        assert_eq!(user(&engine, ShardId(0)).as_deref(), Some("ps-g1"));
        let link = link_of(&engine, MOVED);
        let script = engine.script_lane(MOVED, Protocol::Resp2);
        ask(&mut engine, MOVED, 1);
        engine.enqueue(script, Owner::Tombstone, b"*1\r\n$4\r\nPING\r\n");
        send(&mut engine, link);
        send(&mut engine, script.link as usize);
        change(&mut engine, |topology| {
            topology.changed(|next| {
                next.units[0].quiesced = true;
                Ok(())
            })
        });
        assert_eq!(engine.shared.epoch_served(), Epoch(3), "a script is under way");
        engine.links[script.link as usize].pop_due();
        engine.end_turn();
        assert_eq!(
            engine.shared.epoch_served(),
            Epoch(4),
            "1 may be refused, and is kept"
        );
        assert!(engine.is_held(MOVED), "until it is said where it lives");
        let script = engine.script_lane(MOVED, Protocol::Resp2);
        assert!(engine.is_gate(script.link as usize));
        assert_eq!(link_of(&engine, MOVED), link, "what is no script goes on");
        engine.links[link].pop_due();
        ask(&mut engine, MOVED, 2);
        change(&mut engine, |topology| {
            topology.changed(|next| {
                next.units.clear();
                next.placements[MOVED.index()].node = NodeIndex(1);
                Ok(())
            })
        });
        let link = link_of(&engine, MOVED);
        assert_eq!(
            (engine.links[link].node, engine.links[link].backlog.len()),
            (NodeIndex(1), 1)
        );
        assert!(!engine.is_held(MOVED));
    });
}

#[test]
fn users_come_and_go_and_links_do_not_pile_up() {
    in_runtime(async {
        let mut engine = engine(limits());
        change(&mut engine, provisioned);
        let mut links = Vec::new();
        for number in 2..50 {
            change(&mut engine, |topology| {
                let access = NodeAccess {
                    user: format!("ps-g{number}"),
                    run_id: "r".to_owned(),
                };
                topology.with_access(&[("node-1".to_owned(), Some(access))])
            });
            let link = link_of(&engine, MOVED);
            assert_eq!(
                engine.links[link].user.as_deref(),
                Some(&*format!("ps-g{number}"))
            );
            links.push(engine.links.len());
        }
        assert_eq!(links.first(), links.last());
    });
}

#[test]
fn the_links_of_a_new_user_are_open_before_anything_is_held() {
    in_runtime(async {
        let mut engine = engine(limits());
        change(&mut engine, provisioned);
        let before = link_of(&engine, MOVED);
        engine.links[before].state = State::Ready;
        change(&mut engine, |topology| topology.with_unit(unit(false)));
        let mut links = engine.links.iter();
        let first_new = links
            .position(|link| link.user.as_deref() == Some("ps-u-m1"))
            .unwrap();
        assert!(!engine.is_held(MOVED) && engine.links[first_new].preopens);
        ask(&mut engine, MOVED, 1);
        assert_eq!(engine.links[before].backlog.len(), 1, "the old one serves on");
        engine.links[first_new].state = State::Ready;
        engine.end_turn();
        assert_eq!(engine.shared.epoch_served(), Epoch(3));
        assert_eq!(engine.links[first_new].backlog.len(), 1);
    });
}

#[test]
fn a_link_that_is_refused_because_its_unit_is_frozen_already_delays_no_topology() {
    in_runtime(async {
        let mut engine = engine(limits());
        change(&mut engine, provisioned);
        let before = link_of(&engine, MOVED);
        engine.links[before].state = State::Ready;
        change(&mut engine, |topology| topology.with_unit(unit(true)));
        let of_unit = |link: &&usize| engine.links[**link].user.as_deref() == Some("ps-u-m1");
        let links: Vec<usize> = (0..engine.links.len()).collect();
        let opening: Vec<usize> = links.iter().filter(of_unit).copied().collect();
        assert!(engine.links[opening[0]].preopens && !engine.is_held(MOVED));
        opening.iter().for_each(|&link| engine.is_not_opened(link));
        let rest = engine
            .links
            .iter()
            .position(|link| link.preopens && link.user.as_deref() == Some("ps-g1"));
        assert_eq!(rest, None, "all other shards keep their user");
        engine.end_turn();
        assert_eq!(engine.shared.epoch_served(), Epoch(3));
    });
}

#[test]
fn of_a_unit_without_a_user_everything_is_held_and_who_connects_anew_must_have_heard_of_it() {
    in_runtime(async {
        let mut engine = engine(limits());
        let link = link_of(&engine, MOVED);
        ask(&mut engine, MOVED, 1);
        send(&mut engine, link);
        let next = engine.shared.topology.load().with_unit(Unit {
            user: None,
            ..unit(true)
        });
        engine.shared.adopt(next.unwrap()).unwrap();
        let (node, other) = (NodeIndex(0), NodeIndex(1));
        assert!(engine.must_hear(node, Epoch(2)) && !engine.must_hear(other, Epoch(2)));
        assert!(
            !engine.must_hear(node, Epoch(1)),
            "the node knows no more than we do"
        );
        engine.adopt();
        assert!(!engine.must_hear(node, Epoch(2)), "it is held");
        assert!(engine.is_lost_to(node, MOVED) && !engine.is_lost_to(node, ShardId(0)));
        ask(&mut engine, MOVED, 2);
        assert!(engine.is_gate(link_of(&engine, MOVED)));
        assert!(!engine.is_gate(link_of(&engine, ShardId(0))), "others go on");
        assert_eq!(engine.shared.epoch_served(), Epoch(1), "1 is under way");
        engine.links[link].pop_due();
        engine.end_turn();
        assert_eq!(engine.shared.epoch_served(), Epoch(2));
        assert!(engine.is_held(MOVED), "until it is said where it lives");
        change(&mut engine, |topology| {
            topology.changed(|next| {
                next.units.clear();
                next.placements[MOVED.index()].node = other;
                Ok(())
            })
        });
        let link = link_of(&engine, MOVED);
        assert_eq!(
            (engine.links[link].node, engine.links[link].backlog.len()),
            (other, 1)
        );
        assert!(!engine.is_held(MOVED));
    });
}

#[test]
fn a_node_that_stands_still_does_not_keep_the_next_topology_for_ever_where_requests_have_no_deadline() {
    in_runtime(async {
        let mut engine = engine(Limits {
            request_timeout_us: 0,
            ..limits()
        });
        let silence_max = engine.settings.limits.silence_max_us;
        let before = link_of(&engine, MOVED);
        ask(&mut engine, MOVED, 1);
        send(&mut engine, before);
        let now = engine.now;
        let link = &mut engine.links[before];
        link.state = State::Ready;
        link.batches.push_back(Batch { end: 1, at: now });
        let wire = link.wire();
        link.cells.link_opened(wire);
        engine.now += 2 * silence_max;
        engine.link_deadlines(before);
        assert_eq!(engine.links[before].state, State::Ready, "nobody waits for it");
        change(&mut engine, moved);
        engine.link_deadlines(before);
        assert_eq!(engine.links[before].state, State::Silent);
        assert_eq!(engine.links[before].due[0].owner, Owner::Tombstone);
        engine.now += silence_max;
        engine.link_deadlines(before);
        assert_eq!(engine.links[before].close, Some(LinkClose::Timeout));
        engine.link_closed(before, LinkClose::Timeout);
        engine.end_turn();
        assert_eq!(engine.topology.epoch, Epoch(2));
    });
}

#[test]
fn an_order_to_end_a_wait_that_was_not_sent_reaches_no_other_server_and_its_client_is_answered() {
    in_runtime(async {
        let readdressed =
            |topology: &Topology| topology.with_address("node-1", "127.0.0.1:9".parse().unwrap());
        for (paused, elsewhere) in [(false, true), (false, false), (true, false)] {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            if paused {
                change(&mut engine, |topology| topology.with_paused(&[MOVED], true));
            }
            let words = ["*3", "$6", "CLIENT", "$7", "UNBLOCK", "$1", "7", ""].join("\r\n");
            for frame in [words.as_str(), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"] {
                let seq = engine.push_slot(peer.index, CommandId::NONE, 1, RequestClass::Multi);
                let owner = Owner::Client {
                    index: u32::try_from(peer.index).unwrap(),
                    generation: peer.generation,
                    seq,
                };
                let lane = engine.lane(MOVED, Protocol::Resp2);
                engine.enqueue(lane, owner, frame.as_bytes());
            }
            if elsewhere {
                change(&mut engine, moved);
            } else {
                change(&mut engine, readdressed);
            }
            if paused {
                change(&mut engine, |topology| topology.with_paused(&[MOVED], false));
            }
            assert_eq!(peer.read_all(&mut engine, 4).await, b":0\r\n");
            let link = link_of(&engine, MOVED);
            assert_eq!(engine.links[link].backlog.len(), 1, "the other one goes there");
        }
    });
}
