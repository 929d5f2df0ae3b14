//! The record of a move: what was ordered, how far it is, how it ended. The same on every proxy, since it stands in the store.
//!
//! ```text
//!  planned ─▶ copying ─▶ streaming ─▶ [verifying] ─▶ [ready] ─▶ cutting-over ─▶ moved ─▶ finalized
//!     └──────────┴───────────┴──────────┴───────────┴──▶ cancelled · failed          (all of these: nothing has moved)
//! ```
//!
//! Whether shards have moved is never read here: the topology says it. A record may be behind.

use serde::{Deserialize, Serialize};

use super::verify::Verification;

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Ordered; it waits for its nodes.
    #[default]
    Planned,
    /// The snapshot is being copied.
    Copying,
    /// The target follows the source.
    Streaming,
    /// Source and target are compared.
    Verifying,
    /// It waits for the word to cut over.
    Ready,
    /// The shards are on their way.
    CuttingOver,
    /// The target serves them; the source still has its copy.
    Moved,
    /// The source's copy is gone.
    Finalized,
    /// Stopped by an operator before the cutover.
    Cancelled,
    /// It has given up before the cutover.
    Failed,
}

impl State {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Moved | Self::Finalized | Self::Cancelled | Self::Failed
        )
    }
}

/// What an operator wants of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// That it cuts over.
    Cutover,
    /// That it stops.
    Cancel,
    /// That the source's copy goes.
    Finalize,
}

/// A move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Always `move`.
    pub kind: String,
    /// How far it is.
    pub state: State,
    /// The task that it is a part of.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent: String,
    /// The shards, as a list such as `0-63`.
    pub shards: String,
    /// The node that has them.
    pub source: String,
    /// The node that gets them.
    pub target: String,
    /// It cuts over only when it is told to.
    #[serde(default)]
    pub manual: bool,
    /// Bytes to the target in a second; none: as fast as it can.
    #[serde(default)]
    pub rate: Option<u64>,
    /// The longest that the shards may be held, in milliseconds.
    pub max_pause_ms: u64,
    /// Keys copied.
    #[serde(default)]
    pub keys: u64,
    /// Bytes copied.
    #[serde(default)]
    pub bytes: u64,
    /// How far the target is behind.
    #[serde(default)]
    pub lag_bytes: u64,
    /// How long the shards were held, in milliseconds.
    #[serde(default)]
    pub pause_ms: f64,
    /// Cutovers that were given up.
    #[serde(default)]
    pub attempts: u32,
    /// Why it failed, or why the last attempt did.
    #[serde(default)]
    pub error: String,
    /// Unix seconds.
    #[serde(default)]
    pub started: u64,
    /// Unix seconds; 0: it is not over.
    #[serde(default)]
    pub finished: u64,
    /// What an operator wants, until it is done.
    #[serde(default)]
    pub wish: Option<Wish>,
    /// About how much memory its shards took when it was ordered.
    #[serde(default)]
    pub estimated_bytes: u64,
    /// About how long its copy was to take.
    #[serde(default)]
    pub estimated_seconds: u64,
    /// What an operator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Whether source and target were compared, or are to be.
    #[serde(default)]
    pub verify: Option<Verification>,
}

impl Move {
    /// Reads a record; none if it is something else.
    #[must_use]
    pub fn decode(document: &str) -> Option<Self> {
        serde_json::from_str::<Self>(document)
            .ok()
            .filter(|task| task.kind == "move")
    }

    /// The state as operators read it.
    #[must_use]
    pub fn encode_state(&self) -> String {
        serde_json::json!(self.state)
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The record.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nothing_else_is_one() {
        let task = Move {
            kind: "move".to_owned(),
            state: State::CuttingOver,
            wish: Some(Wish::Cancel),
            pause_ms: 2.25,
            ..Move::default()
        };
        assert_eq!(Move::decode(&task.encode()), Some(task.clone()));
        assert!(
            task.encode().contains(r#""state":"cutting-over""#),
            "{}",
            task.encode()
        );
        assert_eq!(Move::decode(r#"{"kind":"other"}"#), None);
        assert!(State::Moved.is_over() && !State::Ready.is_over());
    }
}
