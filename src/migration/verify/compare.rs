//! Two findings of one key: the same, or not, and in what.

use std::time::Duration;

use super::super::keeper::millis;
use super::super::reading::Found;
use super::side::Side;
use crate::rdb::{Digest, RdbError, unparked_field, unparked_key};

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

impl Difference {
    /// As operators read it, who call the two nodes so.
    pub(super) fn told(self, source: &str, target: &str) -> String {
        let moment = |at: Option<i64>| at.map_or_else(|| "never".to_owned(), |at| format!("at {at} ms"));
        match self {
            Self::TargetLacks => format!("{target} does not have it"),
            Self::SourceLacks => format!("only {target} has it"),
            Self::Value => "the values differ".to_owned(),
            Self::Expiry(here, there) => {
                let (here, there) = (moment(here), moment(there));
                format!("it expires {here} on {source} and {there} on {target}")
            }
            Self::Part(what) => format!("{what} differs"),
            Self::Unreadable => "its value cannot be read".to_owned(),
        }
    }
}

impl Rules {
    pub(super) fn of(source: &Side, target: &Side, skew_ms: i64, slack: Duration) -> Self {
        let exact = if source.exact && target.exact {
            0
        } else {
            INEXACT_MS
        };
        Self {
            skew_ms,
            tolerance_ms: exact.max(millis(slack)),
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

    fn is_same_value(&self, source: &[u8], target: &[u8]) -> Result<bool, RdbError> {
        if Digest::of(source, 0)? == Digest::of(target, self.skew_ms)? {
            return Ok(true);
        }
        // By clocks that differ nobody knows to the millisecond when a field was to expire.
        let is_vague = self.skew_ms != 0 && self.tolerance_ms > 0;
        Ok(is_vague && Digest::whenever(source)? == Digest::whenever(target)?)
    }

    pub(super) fn compare(&self, source: Found<'_>, target: Found<'_>) -> Option<Difference> {
        let (of_source, of_target) = match (source.payload, target.payload) {
            (Some(of_source), Some(of_target)) => (of_source, of_target),
            (None, None) => return None,
            (Some(_), None) => return Some(Difference::TargetLacks),
            (None, Some(_)) => return Some(Difference::SourceLacks),
        };
        if of_source != of_target {
            match self.is_same_value(of_source, of_target) {
                Ok(true) => {}
                Ok(false) => return Some(Difference::Value),
                Err(_) => return Some(Difference::Unreadable),
            }
        }
        if self.is_same_expiry(source.expires_ms, target.expires_ms) {
            return None;
        }
        let target_ms = target.expires_ms.map(|at| unparked_key(at) - self.skew_ms);
        Some(Difference::Expiry(source.expires_ms.map(unparked_key), target_ms))
    }
}
