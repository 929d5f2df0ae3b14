//! What each node carries of the topology: one small document in its metadata database.
//!
//! ```text
//!  the topology says          the node's mark says         standing
//!  cluster c1, epoch 7        (nothing)                    Unmarked     new or emptied: may be marked
//!                             c1, redis-1, epoch 7         Ours
//!                             c1, redis-1, epoch 6         OlderEpoch   to be renewed
//!                             c1, redis-1, epoch 9         NewerEpoch   our store is behind: refuse
//!                             c2, …                        OtherCluster refuse: it would mix two clusters
//!                             c1, redis-2, …               OtherNode    refuse: addresses were exchanged
//! ```
//!
//! The mark is the second witness beside the store. A store that was lost and seeded anew, restored from an old
//! backup, or pointed at the wrong servers is noticed before a single key is served from the wrong place.

use super::Topology;
use super::codec::FORMAT;
use crate::ids::{Epoch, NodeIndex};
use serde::{Deserialize, Serialize};

/// The key in the metadata database that holds the mark.
pub const MARK_KEY: &str = "preshard:mark";
/// Longest mark that is looked at.
pub const MARK_BYTES_MAX: usize = 1024;

/// The document on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The cluster that the node serves.
    pub cluster: String,
    /// The node's name in that cluster.
    pub node: String,
    /// The highest epoch that the node has seen.
    pub epoch: Epoch,
}

/// How the mark found on a node stands to the one that the topology expects there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none: the node is new, or came back empty.
    Unmarked,
    /// Cluster, node and epoch agree.
    Ours,
    /// Ours, of an earlier epoch: to be renewed.
    OlderEpoch(Epoch),
    /// Ours, of a later epoch than our topology's: the store is behind.
    NewerEpoch(Epoch),
    /// The node serves another cluster.
    OtherCluster(Mark),
    /// The node is another one of our cluster.
    OtherNode(Mark),
    /// There is something that is no mark, or one of a newer format. Why.
    Unreadable(String),
}

/// The spelling of a mark.
#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    cluster: String,
    node: String,
    epoch: u64,
}

// === impl Mark ===

impl Mark {
    /// The mark that a node of this topology must carry.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn expected(topology: &Topology, node: NodeIndex) -> Self {
        Self {
            cluster: topology.cluster_id.clone(),
            node: topology.node(node).name.clone(),
            epoch: topology.epoch,
        }
    }

    /// The document, on one line.
    #[must_use]
    pub fn encode(&self) -> String {
        let document = serde_json::json!({
            "format": FORMAT, "cluster": self.cluster, "node": self.node, "epoch": self.epoch.0
        });
        document.to_string()
    }

    /// Reads a document. Fields that this version does not know are passed over: a mark must stay readable to
    /// the proxies of a rolling upgrade.
    ///
    /// # Errors
    /// Why it is no mark, as a sentence.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        if text.len() > MARK_BYTES_MAX {
            return Err(format!("it has {} bytes, more than any mark", text.len()));
        }
        let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if document.format > FORMAT {
            return Err(format!(
                "it has format {}, this version reads up to {FORMAT}",
                document.format
            ));
        }
        Ok(Self {
            cluster: document.cluster,
            node: document.node,
            epoch: Epoch(document.epoch),
        })
    }

    /// Compares what a node carries with `self`, the mark that it should carry.
    #[must_use]
    pub fn standing(&self, found: Option<&[u8]>) -> Standing {
        let Some(text) = found else {
            return Standing::Unmarked;
        };
        let found = match Self::decode(text) {
            Ok(found) => found,
            Err(why) => return Standing::Unreadable(why),
        };
        if found.cluster != self.cluster {
            Standing::OtherCluster(found)
        } else if found.node != self.node {
            Standing::OtherNode(found)
        } else {
            match found.epoch.cmp(&self.epoch) {
                std::cmp::Ordering::Less => Standing::OlderEpoch(found.epoch),
                std::cmp::Ordering::Equal => Standing::Ours,
                std::cmp::Ordering::Greater => Standing::NewerEpoch(found.epoch),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::topology;
    use super::*;

    fn expected() -> Mark {
        let mut topology = topology(8, 4, 2);
        topology.epoch = Epoch(7);
        Mark::expected(&topology, NodeIndex(0))
    }

    fn found(change: impl FnOnce(&mut Mark)) -> Standing {
        let mut mark = expected();
        change(&mut mark);
        expected().standing(Some(mark.encode().as_bytes()))
    }

    #[test]
    fn a_mark_is_one_line_of_json() {
        assert_eq!(
            expected().encode(),
            r#"{"format":1,"cluster":"c1","node":"redis-1","epoch":7}"#
        );
        assert_eq!(Mark::decode(expected().encode().as_bytes()), Ok(expected()));
    }

    #[test]
    fn every_standing_is_told_apart() {
        assert_eq!(expected().standing(None), Standing::Unmarked);
        assert_eq!(found(|_| ()), Standing::Ours);
        assert_eq!(
            found(|mark| mark.epoch = Epoch(6)),
            Standing::OlderEpoch(Epoch(6))
        );
        assert_eq!(
            found(|mark| mark.epoch = Epoch(9)),
            Standing::NewerEpoch(Epoch(9))
        );
        assert!(matches!(
            found(|mark| mark.cluster = "c2".into()),
            Standing::OtherCluster(_)
        ));
        assert!(matches!(
            found(|mark| mark.node = "redis-2".into()),
            Standing::OtherNode(_)
        ));
    }

    #[test]
    fn what_is_no_mark_is_unreadable_and_never_ours() {
        let newer = expected().encode().replace("\"format\":1", "\"format\":2");
        for text in ["", "{}", "hello", newer.as_str(), &"x".repeat(MARK_BYTES_MAX + 1)] {
            assert!(
                matches!(
                    expected().standing(Some(text.as_bytes())),
                    Standing::Unreadable(_)
                ),
                "{text}"
            );
        }
        let more = expected()
            .encode()
            .replace("\"epoch\"", "\"later\":true,\"epoch\"");
        assert_eq!(expected().standing(Some(more.as_bytes())), Standing::Ours);
    }
}
