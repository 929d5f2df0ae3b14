//! What the record of a move says of its verification.

use serde::{Deserialize, Serialize};

use super::Checked;

/// Which keys are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// All of up to a million, a hundred thousand of more.
    #[default]
    Usual,
    /// All.
    All,
    /// So many, by chance.
    Keys(u64),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyState {
    /// Ordered; the leader has not begun, or its copy does not follow the stream yet.
    #[default]
    Asked,
    /// Keys are compared.
    Running,
    /// No difference was found.
    Same,
    /// Some was.
    Different,
    /// It came to no end.
    Failed,
}

/// A verification, ordered or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Tells one order from another.
    #[serde(default)]
    pub order: u64,
    /// Which keys.
    #[serde(default)]
    pub sample: Sample,
    /// How far it is.
    #[serde(default)]
    pub state: VerifyState,
    /// Keys that were compared.
    #[serde(default)]
    pub keys: u64,
    /// Keys that there are to compare, about.
    #[serde(default)]
    pub of: u64,
    /// Keys of which a part was compared.
    #[serde(default)]
    pub large: u64,
    /// Differences.
    #[serde(default)]
    pub mismatches: u64,
    /// Some of them, in words.
    #[serde(default)]
    pub found: Vec<String>,
    /// Why it came to no end.
    #[serde(default)]
    pub error: String,
    /// How long it took.
    #[serde(default)]
    pub ms: u64,
    /// Which of the move's copies was compared: the leader's term, and how often it had begun again.
    #[serde(default)]
    pub copy: String,
    /// The node that had the shards …
    #[serde(default)]
    pub owner: String,
    /// … and the one that followed it, which was compared with it.
    #[serde(default)]
    pub follower: String,
}

impl Verification {
    /// One that is to be done.
    #[must_use]
    pub fn asked(sample: Sample) -> Self {
        Self {
            order: fastrand::u64(1..1 << 52),
            sample,
            ..Self::default()
        }
    }

    /// Whether it is still to be done, or to be ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, VerifyState::Asked | VerifyState::Running)
    }

    /// Whether the shards may be cut over as far as this goes.
    #[must_use]
    pub const fn permits(&self) -> bool {
        matches!(self.state, VerifyState::Same)
    }

    /// Ends what is open.
    pub(in crate::migration) fn fail(&mut self, why: &str) {
        if self.is_open() {
            self.state = VerifyState::Failed;
            why.clone_into(&mut self.error);
        }
    }

    pub(super) fn note(&mut self, checked: &Checked) {
        self.keys = checked.keys;
        self.of = checked.of;
        self.large = checked.large;
        self.mismatches = checked.mismatches;
        self.found = checked.found.iter().map(super::Mismatch::told).collect();
    }

    /// Why the shards may not be cut over.
    #[must_use]
    pub fn why_not(&self) -> String {
        match self.state {
            VerifyState::Different => format!(
                "it was verified, and {} differences were found: {}",
                self.mismatches,
                self.found.first().map_or("", String::as_str)
            ),
            VerifyState::Failed => format!("it could not be verified: {}", self.error),
            VerifyState::Asked | VerifyState::Running => "it is being verified".to_owned(),
            VerifyState::Same => String::new(),
        }
    }
}

/// What a record that was read again says: an order that is new counts, all else is known better here.
pub(in crate::migration) fn merged(
    ours: Option<Verification>,
    theirs: Option<Verification>,
) -> Option<Verification> {
    let known = ours.as_ref().map(|ours| ours.order);
    match theirs {
        Some(theirs) if theirs.state == VerifyState::Asked && Some(theirs.order) != known => Some(theirs),
        _ => ours,
    }
}
