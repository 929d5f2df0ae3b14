//! The families of preshard's own users on the nodes.

use super::family::{Family, NODE, counter, gauge};
use super::read::nodes;

pub(super) static FAMILIES: &[Family] = &[
    gauge(
        "preshard_node_users",
        &[NODE],
        "1 if the topology names a user of preshard's own on the node, 0 if the node is served with the configured login.",
        |s, out| {
            let assignment = s.facts.assignment();
            for name in &s.nodes {
                out.count(&[name], u64::from(assignment.provisioned.contains(name)));
            }
        },
    ),
    counter(
        "preshard_node_users_made_total",
        &[NODE],
        "How often this proxy made preshard's own users on the node: at the start, and when the node had lost them.",
        |s, out| {
            nodes(s, out, |n| n.users_made.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_users_failed_total",
        &[NODE],
        "How often this proxy could not make them although the node answered.",
        |s, out| {
            nodes(s, out, |n| n.users_failed.load(), |sum| sum);
        },
    ),
];
