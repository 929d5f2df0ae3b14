//! Whether a batch follows the one that Postgres has recorded last: each batch names the one before it.
//!
//! ```text
//!  marker (Postgres)   batch              link
//!  none                seq                First          nothing recorded yet
//!  m                   prev = m           Next           as it should be
//!  m                   prev = 0           Reset          Redis forgot its history: FLUSHALL, COUNTER.DEL, data loss
//!  m > prev > 0        seq > m            RolledBack     Redis went back in time: what m counted may be counted again
//!  m < prev                               Unrecorded     something was acknowledged that Postgres has no record of
//!  m = seq                                Applied        a batch that has come again
//!  m > seq                                Past           likewise, or a Redis that went back and whose clock did too
//! ```

/// How a batch relates to the marker of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Nothing has been recorded of this shard.
    First,
    /// It follows the batch that was recorded last.
    Next,
    /// Redis knows of no batch before.
    Reset,
    /// Redis names an older one as the last.
    RolledBack,
    /// Redis names a younger one as the last.
    Unrecorded,
    /// It has been applied.
    Applied,
    /// A younger one has been applied.
    Past,
}

impl Link {
    /// Compares a batch with its shard's marker.
    pub(super) const fn of(marker: Option<i64>, seq: i64, prev: i64) -> Self {
        match marker {
            None => Self::First,
            Some(marker) if marker == seq => Self::Applied,
            Some(marker) if marker > seq => Self::Past,
            Some(marker) if marker == prev => Self::Next,
            Some(_) if prev == 0 => Self::Reset,
            Some(marker) if marker > prev => Self::RolledBack,
            Some(_) => Self::Unrecorded,
        }
    }

    /// The word of logs and metrics, if it is worth one.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::First | Self::Next | Self::Applied => None,
            Self::Reset => Some("reset"),
            Self::RolledBack => Some("rolled_back"),
            Self::Unrecorded => Some("unrecorded"),
            Self::Past => Some("past"),
        }
    }

    /// Whether its counts may be in Postgres already.
    pub(super) const fn may_count_twice(self) -> bool {
        matches!(self, Self::RolledBack | Self::Past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_marker_and_batch_has_its_link() {
        let cases = [
            (None, 5, 0, Link::First),
            (None, 5, 4, Link::First),
            (Some(4), 5, 4, Link::Next),
            (Some(4), 9, 0, Link::Reset),
            (Some(7), 9, 4, Link::RolledBack),
            (Some(4), 9, 7, Link::Unrecorded),
            (Some(9), 9, 7, Link::Applied),
            (Some(9), 9, 0, Link::Applied),
            (Some(9), 8, 7, Link::Past),
            (Some(9), 8, 0, Link::Past),
        ];
        for (marker, seq, prev, link) in cases {
            assert_eq!(Link::of(marker, seq, prev), link, "{marker:?} {seq} {prev}");
        }
    }
}
