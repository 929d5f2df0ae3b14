//! The topology as a JSON document: what the store keeps and `PRESHARD TOPOLOGY DUMP` prints.
//!
//! ```json
//! { "format": 1, "cluster": "c1", "epoch": 7, "shards": 1024, "pinned": 15,
//!   "nodes": [ { "name": "redis-1", "address": "127.0.0.1:7001", "user": "ps-g1", "run_id": "5a9f…" }, … ],
//!   "placements": [ { "node": "redis-1", "shards": "0-511,1024,1026" }, … ],
//!   "paused": "7,9",                                                            (only if some are)
//!   "units": [ { "task": "m7", "shards": "0-63", "user": "ps-u-m7-1", "quiesced": true } ],     (only while some move)
//!   "checksum": "sha256:…" }
//! ```
//!
//! One row of `placements` lists the shards of one node; their database is the shard's number, plus
//! `db_offset` where a row has one. So 4,096 shards stay a few hundred bytes while ranges are whole, and
//! some twenty kilobytes when no two neighbours live together.
//!
//! A unit without `user` is of a node whose users are not preshard's.
//!
//! Equal topologies give identical bytes. Reading believes nothing: a newer format, an unknown field, a shard
//! placed twice or nowhere, or content that does not match its checksum is refused with the reason. The checksum
//! covers the meaning, not the spelling, so a document may be re-indented; who edits it on purpose
//! removes the line.

use super::{Address, AddressError, Invalid, Node, NodeAccess, Placement, Topology, Unit, validate};
use crate::ids::{DbIndex, Epoch, NodeIndex, ShardId};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The largest document that is looked at: the worst layout takes about a quarter of it.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

const CHECKSUM_KIND: &str = "sha256:";

/// Why a document is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Larger than any topology can be.
    #[error("the document has {0} bytes, more than the limit of {DOCUMENT_BYTES_MAX}")]
    TooLarge(usize),
    /// Not JSON, cut off, or not of the shape of a topology.
    #[error("the document is no topology: {0}")]
    Syntax(String),
    /// There is no format number.
    #[error("the document is no topology: it has no \"format\"")]
    NoFormat,
    /// Written by a later version of preshard.
    #[error(
        "the document has format {found}, this version of preshard reads up to {FORMAT}: \
             it was written by a newer version, use that one"
    )]
    Newer {
        /// The number in the document.
        found: u32,
    },
    /// An address cannot be read.
    #[error("node '{node}': {error}")]
    Address {
        /// The node's name.
        node: String,
        /// What is wrong.
        error: AddressError,
    },
    /// A node has a user without a run or a run without a user.
    #[error("node '{0}' needs both \"user\" and \"run_id\", or none of them")]
    HalfAccess(String),
    /// A row of placements names no node of the document.
    #[error("placements name the node '{0}', which is not listed under \"nodes\"")]
    UnknownNode(String),
    /// A list of shards is not of the form `0-511,1024`.
    #[error("'{0}' is no list of shards such as 0-511,1024")]
    BadRange(String),
    /// A shard has two rows.
    #[error("shard {0} is placed twice")]
    PlacedTwice(ShardId),
    /// A shard has no row.
    #[error("shard {0} is placed nowhere")]
    PlacedNowhere(ShardId),
    /// A database number is out of range.
    #[error("shard {shard} with db_offset {offset} has no valid database number")]
    BadOffset {
        /// The shard.
        shard: ShardId,
        /// The offset of its row.
        offset: i32,
    },
    /// The content was altered since it was written.
    #[error(
        "the content does not match its checksum: the document is damaged; \
             if it was edited on purpose, remove the \"checksum\" line"
    )]
    Checksum,
    /// The document is well formed and its topology is not.
    #[error("{}", sentences(.0))]
    Invalid(Vec<Invalid>),
}

fn sentences(found: &[Invalid]) -> String {
    found
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Only as much as tells whether the rest may be read.
#[derive(Deserialize)]
struct Head {
    format: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "format")]
    _format: u32,
    cluster: String,
    epoch: u64,
    shards: u16,
    pinned: u16,
    nodes: Vec<NodeRow>,
    placements: Vec<PlacementRow>,
    paused: Option<String>,
    #[serde(default)]
    units: Vec<UnitRow>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRow {
    name: String,
    address: String,
    user: Option<String>,
    run_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementRow {
    node: String,
    shards: String,
    #[serde(default)]
    db_offset: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitRow {
    task: String,
    shards: String,
    user: Option<String>,
    #[serde(default)]
    quiesced: bool,
}

// === impl Topology ===

impl Topology {
    /// The document, indented, without a newline at the end. Equal topologies give equal text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut document = self.content();
        document["checksum"] = Value::String(checksum(&document));
        format!("{document:#}")
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The first thing that keeps it from being read, or all that is wrong with the topology in it.
    pub fn decode(text: &[u8]) -> Result<Self, CodecError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(CodecError::TooLarge(text.len()));
        }
        let syntax = |error: serde_json::Error| CodecError::Syntax(error.to_string());
        let head: Head = serde_json::from_slice(text).map_err(syntax)?;
        match head.format {
            None => return Err(CodecError::NoFormat),
            Some(0) => return Err(CodecError::Syntax("format 0 never existed".into())),
            Some(found) if found > FORMAT => return Err(CodecError::Newer { found }),
            Some(_) => {}
        }
        let mut document: Document = serde_json::from_slice(text).map_err(syntax)?;
        let written = document.checksum.take();
        let topology = document.into_topology()?;
        match written {
            Some(written) if written != checksum(&topology.content()) => Err(CodecError::Checksum),
            Some(_) | None => topology
                .validate()
                .map(|()| topology)
                .map_err(CodecError::Invalid),
        }
    }

    /// Everything but the checksum, in the order of the document.
    fn content(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes_by_index()
            .map(|(index, node)| {
                let mut row = json!({ "name": node.name, "address": node.address.to_string() });
                if let Some(access) = self.access.get(&index) {
                    row["user"] = access.user.as_str().into();
                    row["run_id"] = access.run_id.as_str().into();
                }
                row
            })
            .collect();
        let mut content = json!({
            "format": FORMAT,
            "cluster": self.cluster_id,
            "epoch": self.epoch.0,
            "shards": self.shards,
            "pinned": self.pinned,
            "nodes": nodes,
            "placements": self.placement_rows(),
        });
        if !self.paused.is_empty() {
            let paused: Vec<ShardId> = self.paused.iter().copied().collect();
            content["paused"] = ranges(&paused).into();
        }
        if !self.units.is_empty() {
            let row = |unit: &Unit| {
                let shards: Vec<ShardId> = unit.shards.iter().copied().collect();
                let mut row = json!({ "task": unit.task, "shards": ranges(&shards) });
                if let Some(user) = &unit.user {
                    row["user"] = user.as_str().into();
                }
                if unit.quiesced {
                    row["quiesced"] = true.into();
                }
                row
            };
            content["units"] = self.units.iter().map(row).collect();
        }
        content
    }

    fn placement_rows(&self) -> Vec<Value> {
        let mut rows: BTreeMap<(NodeIndex, i32), Vec<ShardId>> = BTreeMap::new();
        for (shard, placement) in self.placements_by_shard() {
            let offset = i32::from(placement.db.0) - i32::from(shard.0);
            rows.entry((placement.node, offset)).or_default().push(shard);
        }
        rows.into_iter()
            .map(|((node, offset), shards)| {
                let name = self.nodes.get(node.index()).map_or("", |node| &node.name);
                let mut row = json!({ "node": name, "shards": ranges(&shards) });
                if offset != 0 {
                    row["db_offset"] = offset.into();
                }
                row
            })
            .collect()
    }
}

// === impl Document ===

impl Document {
    fn into_topology(self) -> Result<Topology, CodecError> {
        let wrong = validate::check_counts(self.shards, self.pinned);
        if !wrong.is_empty() {
            return Err(CodecError::Invalid(wrong));
        }
        let mut topology = Topology {
            cluster_id: self.cluster,
            epoch: Epoch(self.epoch),
            shards: self.shards,
            pinned: self.pinned,
            nodes: Vec::with_capacity(self.nodes.len()),
            retired: BTreeSet::new(),
            placements: Vec::new(),
            paused: BTreeSet::new(),
            access: BTreeMap::new(),
            units: Vec::new(),
        };
        for (index, row) in (0..=u16::MAX).map(NodeIndex).zip(self.nodes) {
            match (row.user, row.run_id) {
                (Some(user), Some(run_id)) => {
                    topology.access.insert(index, NodeAccess { user, run_id });
                }
                (None, None) => {}
                (Some(_), None) | (None, Some(_)) => return Err(CodecError::HalfAccess(row.name)),
            }
            let address: Address = match row.address.parse() {
                Ok(address) => address,
                Err(error) => {
                    return Err(CodecError::Address {
                        node: row.name,
                        error,
                    });
                }
            };
            topology.nodes.push(Node {
                name: row.name,
                address,
            });
        }
        let by_name: HashMap<&str, NodeIndex> = topology
            .nodes_by_index()
            .map(|(index, node)| (node.name.as_str(), index))
            .collect();
        let mut placed = vec![None; usize::from(topology.total_shards())];
        for row in &self.placements {
            let node = *by_name
                .get(row.node.as_str())
                .ok_or_else(|| CodecError::UnknownNode(row.node.clone()))?;
            place(row, node, &mut placed)?;
        }
        let rows = (0..=u16::MAX).map(ShardId).zip(placed);
        topology.placements = rows
            .map(|(shard, row)| row.ok_or(CodecError::PlacedNowhere(shard)))
            .collect::<Result<_, _>>()?;
        for row in self.units {
            topology.units.push(Unit {
                shards: shard_list(&row.shards, topology.total_shards())?
                    .into_iter()
                    .collect(),
                task: row.task,
                user: row.user,
                quiesced: row.quiesced,
            });
        }
        if let Some(paused) = &self.paused {
            topology.paused = shard_list(paused, topology.total_shards())?.into_iter().collect();
        }
        Ok(topology)
    }
}

/// Enters the shards of one row.
fn place(row: &PlacementRow, node: NodeIndex, placed: &mut [Option<Placement>]) -> Result<(), CodecError> {
    let count = u16::try_from(placed.len()).unwrap_or(u16::MAX);
    for shard in shard_list(&row.shards, count)? {
        let db = i32::from(shard.0)
            .checked_add(row.db_offset)
            .and_then(|db| u16::try_from(db).ok())
            .ok_or(CodecError::BadOffset {
                shard,
                offset: row.db_offset,
            })?;
        let placement = Placement {
            node,
            db: DbIndex(db),
        };
        if placed[shard.index()].replace(placement).is_some() {
            return Err(CodecError::PlacedTwice(shard));
        }
    }
    Ok(())
}

/// Reads a list such as `0-511,1024` of shards below `count`, in the order of the text. It names no more than twice as
/// many as there are.
///
/// # Errors
/// It is no such list.
pub fn shard_list(text: &str, count: u16) -> Result<Vec<ShardId>, CodecError> {
    let bad = || CodecError::BadRange(text.chars().take(80).collect());
    // As it is written: no sign, no zeros in front.
    let number = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|number| number.to_string() == text)
    };
    let mut shards = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first = number(first).ok_or_else(bad)?;
        let last = number(last).ok_or_else(bad)?;
        if first > last || last >= count || shards.len() > usize::from(count) {
            return Err(bad());
        }
        shards.extend((first..=last).map(ShardId));
    }
    Ok(shards)
}

/// `0-511,1024` of an ascending list.
#[must_use]
pub fn ranges(shards: &[ShardId]) -> String {
    let mut text = String::new();
    for run in shards.chunk_by(|a, b| a.0 + 1 == b.0) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = match run {
            [one] => write!(text, "{comma}{one}"),
            [first, .., last] => write!(text, "{comma}{first}-{last}"),
            [] => Ok(()),
        };
    }
    text
}

fn checksum(content: &Value) -> String {
    let digest = Sha256::digest(content.to_string().as_bytes());
    let mut text = String::from(CHECKSUM_KIND);
    for byte in digest {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::topology;
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> CodecError {
        Topology::decode(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn the_document_reads_like_the_page_says() {
        let text = topology(8, 4, 2).encode();
        let expected = r#"{
  "format": 1,
  "cluster": "c1",
  "epoch": 1,
  "shards": 8,
  "pinned": 4,
  "nodes": [
    {
      "name": "redis-1",
      "address": "127.0.0.1:7001"
    },
    {
      "name": "redis-2",
      "address": "127.0.0.1:7002"
    }
  ],
  "placements": [
    {
      "node": "redis-1",
      "shards": "0-3,8,10"
    },
    {
      "node": "redis-2",
      "shards": "4-7,9,11"
    }
  ],
  "checksum": "sha256:"#;
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn documents_stay_small() {
        let mut topology = topology(4096, 15, 2);
        assert!(topology.encode().len() < 1024);
        for (at, placement) in topology.placements.iter_mut().enumerate() {
            placement.node = NodeIndex(u16::try_from(at % 2).unwrap());
        }
        assert!(topology.encode().len() < 32 * 1024, "{}", topology.encode().len());
    }

    #[test]
    fn a_newer_format_is_refused_before_its_unknown_fields() {
        let text = topology(8, 4, 2)
            .encode()
            .replace("\"format\": 1", "\"later\": {}, \"format\": 2");
        assert_eq!(refused(&text), CodecError::Newer { found: 2 });
        assert_eq!(refused("{}"), CodecError::NoFormat);
        assert!(matches!(refused("{\"format\":0}"), CodecError::Syntax(_)));
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let text = topology(8, 4, 2)
            .encode()
            .replace("\"pinned\": 4", "\"pinned\": 4, \"colour\": 1");
        assert!(
            refused(&text).to_string().contains("unknown field `colour`"),
            "{}",
            refused(&text)
        );
    }

    #[test]
    fn an_altered_document_is_refused_unless_its_checksum_line_is_removed() {
        let good = topology(8, 4, 2).encode();
        let altered = good.replace("127.0.0.1:7001", "127.0.0.1:7003");
        assert_eq!(refused(&altered), CodecError::Checksum);
        let by_hand: String = altered
            .lines()
            .filter(|line| !line.contains("checksum"))
            .collect::<String>()
            .replace("],}", "]}");
        let topology = Topology::decode(by_hand.as_bytes()).unwrap();
        assert_eq!(topology.nodes[0].address.port(), Some(7003));
    }

    #[test]
    fn every_shard_is_placed_exactly_once() {
        let good = topology(8, 4, 2).encode();
        assert_eq!(
            refused(&good.replace("0-3,8", "0-4,8")),
            CodecError::PlacedTwice(ShardId(4))
        );
        assert_eq!(
            refused(&good.replace("0-3,8", "0-2,8")),
            CodecError::PlacedNowhere(ShardId(3))
        );
        for bad in ["0-99999999999", "3-0", "", "0-", "-3", "0-12", "a", "0-3,,8"] {
            assert!(
                matches!(refused(&good.replace("0-3,8,10", bad)), CodecError::BadRange(_)),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_is_no_topology_says_why() {
        let good = topology(8, 4, 2).encode();
        assert!(matches!(
            refused(&good.replace("127.0.0.1:7001", "nowhere")),
            CodecError::Address { .. }
        ));
        let elsewhere = good.replace("\"node\": \"redis-2\"", "\"node\": \"redis-9\"");
        assert_eq!(refused(&elsewhere), CodecError::UnknownNode("redis-9".into()));
        let odd = refused(&good.replace("\"shards\": 8", "\"shards\": 7"));
        assert_eq!(odd, CodecError::Invalid(vec![Invalid::Shards(7)]));
        assert!(
            matches!(refused(&"[".repeat(100_000)), CodecError::Syntax(_)),
            "depth is bounded"
        );
        assert!(matches!(
            refused(&" ".repeat(DOCUMENT_BYTES_MAX + 1)),
            CodecError::TooLarge(_)
        ));
    }

    proptest! {
        #[test]
        fn any_layout_survives_a_round_trip(
            seed in proptest::collection::vec((0_u16..3, 0_u16..3), 20), epoch in 1_u64..) {
            let mut topology = topology(16, 4, 3);
            topology.epoch = Epoch(epoch);
            for (placement, (node, shift)) in topology.placements.iter_mut().zip(seed) {
                // Blocks of 100 databases never collide and keep clear of the metadata database (20).
                *placement = Placement { node: NodeIndex(node), db: DbIndex(placement.db.0 + 100 * shift) };
            }
            let text = topology.encode();
            let again = Topology::decode(text.as_bytes()).unwrap();
            prop_assert_eq!(&again, &topology);
            prop_assert_eq!(again.encode(), text, "equal topologies give identical bytes");
        }

        #[test]
        fn a_document_cut_off_anywhere_is_refused(part in 0.0_f64..1.0) {
            let text = topology(8, 4, 2).encode();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                reason = "any position will do")]
            let end = (text.len() as f64 * part) as usize;
            prop_assert!(Topology::decode(&text.as_bytes()[..end]).is_err());
        }

        #[test]
        fn one_flipped_bit_never_passes(at in any::<proptest::sample::Index>(), bit in 0_u8..8) {
            let good = topology(8, 4, 2);
            let mut bytes = good.encode().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(read) = Topology::decode(&bytes) {
                prop_assert_eq!(read, good, "only spelling may differ");
            }
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Topology::decode(&bytes);
        }
    }
}
