//! What stands at the beginning of a run: nodes with their users and marks, a topology, and what will go wrong.

use std::sync::Arc;

use fastrand::Rng;

use super::faults::Faults;
use super::node::Node;
use super::play::{CLIENTS, PROXIES, Planted, SHARDS, is_calm};
use super::process::secret;
use super::store::StoreModel;
use super::world::World;
use crate::command::FEED_USER;
use crate::control::fence::TERM_KEY;
use crate::ids::NodeIndex;
use crate::topology::mark::{MARK_KEY, Mark};
use crate::topology::{Node as Described, NodeAccess, Topology};
use crate::worker::shared::user_password;

/// One run in so many has nodes without users, all of them or some.
const COOPERATIVE_IN: u8 = 5;

fn make_nodes(planted: Planted, rng: &mut Rng) -> Vec<Arc<Node>> {
    let must_be_open = planted.is_cooperative();
    let is_any_open = must_be_open || rng.u8(0..COOPERATIVE_IN) == 0;
    let are_all = must_be_open || rng.bool();
    let count = rng.usize(2..=3);
    let with_users = rng.usize(0..count);
    let is_open = |at| is_any_open && (are_all || at != with_users);
    // Behind them as many others, which may take their places.
    let servers = (0..count).chain(0..count);
    servers
        .enumerate()
        .map(|(at, of)| Node::new(at, is_open(of)))
        .collect()
}

pub(super) fn build(seed: u64, planted: Planted, rng: &mut Rng) -> Arc<World> {
    let slip = match planted {
        Planted::Slip(slip) => Some(slip),
        Planted::Nothing | Planted::Mistake(_) => None,
    };
    let nodes = make_nodes(planted, rng);
    let count = nodes.len() / 2;
    let described = nodes.iter().take(count).map(|node| Described {
        name: node.name.clone(),
        address: node.address.clone(),
    });
    let mut topology = Topology::seed("sim".to_owned(), SHARDS, 0, described.collect()).unwrap();
    let mut whims = Rng::with_seed(seed ^ 0x51de);
    if planted
        .replaces_in()
        .is_some_and(|seldom| whims.u8(0..seldom) == 0)
    {
        let with_shards = u16::try_from(count - 1).unwrap();
        let places = topology.placements.iter_mut();
        places.for_each(|place| place.node.0 %= with_shards);
    }
    for (index, node) in (0..).map(NodeIndex).zip(nodes.iter().take(count)) {
        if !node.is_open() {
            let access = NodeAccess {
                user: "ps-g1".to_owned(),
                run_id: node.run_id(),
            };
            topology.access.insert(index, access);
            for user in ["ps-g1", FEED_USER] {
                node.make_user(user, &user_password(&secret(), user));
            }
        }
        let metadata = topology.metadata_db().0;
        node.put(metadata, MARK_KEY, &Mark::expected(&topology, index).encode());
        node.put(metadata, TERM_KEY, "0");
    }
    let faults = if is_calm(seed) {
        Faults::default()
    } else {
        Faults::draw(rng, (PROXIES, count), planted)
    };
    let counts = (PROXIES, CLIENTS, usize::from(SHARDS));
    World::new(seed, slip, nodes, StoreModel::new(topology), faults, counts)
}
