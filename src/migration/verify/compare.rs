//! Two findings of one key: the same, or not, and in what.

use std::fmt;

use super::side::{Found, Side};
use crate::rdb::{Digest, unparked_field, unparked_key};

/// Servers before 7.0 tell expiries as what is left of them, and their replicas too.
const INEXACT_MS: i64 = 2_000;

/// By what is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// The target's clock less the source's, as the copy's expiries go by it.
    pub(super) skew_ms: i64,
    /// Expiries that differ by no more are the same.
    pub(super) tolerance_ms: i64,
}

/// In what a key differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    TargetLacks,
    SourceLacks,
    Value,
    /// Milliseconds since 1970 by the source's clock; none: never.
    Expiry(Option<i64>, Option<i64>),
    /// Some part of a large value.
    Part(&'static str),
    /// A payload that this version cannot read.
    Unreadable,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = |at: &Option<i64>| at.map_or_else(|| "never".to_owned(), |at| format!("at {at} ms"));
        match self {
            Self::TargetLacks => f.write_str("the target does not have it"),
            Self::SourceLacks => f.write_str("only the target has it"),
            Self::Value => f.write_str("the values differ"),
            Self::Expiry(source, target) => {
                let (source, target) = (moment(source), moment(target));
                write!(f, "it expires {source} on the source and {target} on the target")
            }
            Self::Part(what) => write!(f, "{what} differs"),
            Self::Unreadable => f.write_str("its value cannot be read"),
        }
    }
}

impl Rules {
    pub(super) const fn of(source: &Side, target: &Side, skew_ms: i64) -> Self {
        let exact = source.exact && target.exact;
        Self {
            skew_ms,
            tolerance_ms: if exact { 0 } else { INEXACT_MS },
        }
    }

    /// Whether a key expires at the same time.
    pub(super) fn is_same_expiry(&self, source: Option<i64>, target: Option<i64>) -> bool {
        match (source, target) {
            (Some(source), Some(target)) => {
                let (source, target) = (unparked_key(source), unparked_key(target) - self.skew_ms);
                source.abs_diff(target) <= self.tolerance_ms.unsigned_abs()
            }
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether a field expires at the same time, both as `HPEXPIRETIME` tells.
    pub(super) fn is_same_field_expiry(&self, source: i64, target: i64) -> bool {
        if source < 0 || target < 0 {
            return source == target;
        }
        let (source, target) = (unparked_field(source), unparked_field(target) - self.skew_ms);
        source.abs_diff(target) <= self.tolerance_ms.unsigned_abs()
    }

    pub(super) fn compare(&self, source: &Found, target: &Found) -> Option<Difference> {
        let (of_source, of_target) = match (&source.payload, &target.payload) {
            (Some(of_source), Some(of_target)) => (of_source, of_target),
            (None, None) => return None,
            (Some(_), None) => return Some(Difference::TargetLacks),
            (None, Some(_)) => return Some(Difference::SourceLacks),
        };
        if of_source != of_target {
            match (Digest::of(of_source, 0), Digest::of(of_target, self.skew_ms)) {
                (Ok(of_source), Ok(of_target)) if of_source == of_target => {}
                (Ok(_), Ok(_)) => return Some(Difference::Value),
                (Err(_), _) | (_, Err(_)) => return Some(Difference::Unreadable),
            }
        }
        if self.is_same_expiry(source.expires_ms, target.expires_ms) {
            return None;
        }
        let target_ms = target.expires_ms.map(|at| unparked_key(at) - self.skew_ms);
        Some(Difference::Expiry(source.expires_ms.map(unparked_key), target_ms))
    }
}
