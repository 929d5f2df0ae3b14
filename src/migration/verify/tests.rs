//! Tests of what is decided: batches, samples, differences, records.

use super::super::reading::{Found, LARGE_BYTES};
use super::batch::{BATCH_KEYS, Batch, Batcher};
use super::compare::{Difference, Rules};
use super::feed::part;
use super::record::merged;
use super::*;
use crate::rdb::{PARK_FIELD_MS, PARK_KEY_MS};

fn key(number: usize) -> Vec<u8> {
    format!("k{number}").into_bytes()
}

#[test]
fn batches_are_bounded_by_keys_and_bytes_and_large_values_stand_apart() {
    let db = DbIndex(3);
    let batches = |keys: Vec<(Vec<u8>, u64)>| {
        let mut batcher = Batcher::of(db);
        let mut all: Vec<Batch> = Vec::new();
        all.extend(keys.into_iter().filter_map(|(key, size)| batcher.push(key, size)));
        all.extend(batcher.rest());
        all
    };
    let many = batches((0..300).map(|number| (key(number), 50)).collect());
    let sizes: Vec<usize> = many.iter().map(|batch| batch.small.len()).collect();
    assert_eq!(sizes, [BATCH_KEYS, BATCH_KEYS, 300 - 2 * BATCH_KEYS]);
    let heavy = batches((0..5).map(|number| (key(number), 600_000)).collect());
    assert_eq!(heavy.len(), 5);
    let mixed = batches(vec![(key(1), LARGE_BYTES + 1), (key(2), LARGE_BYTES)]);
    let expected = Batch {
        db,
        small: vec![key(2)],
        large: vec![key(1)],
    };
    assert_eq!(mixed, [expected]);
    assert_eq!(batches(vec![]), []);
    let large = batches((0..300).map(|number| (key(number), LARGE_BYTES + 1)).collect());
    assert_eq!(large.len(), 3, "names of large values are bounded, too");
}

#[test]
fn a_sample_is_spread_over_databases_by_their_keys() {
    let mut seen = 0;
    let due: Vec<u64> = [10, 0, 90]
        .iter()
        .map(|keys| {
            seen += keys;
            part(50, seen, 100)
        })
        .collect();
    assert_eq!(due, [5, 5, 50]);
    assert_eq!(part(50, 0, 0), 0);
    assert_eq!(part(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn nodes_rest_for_as_long_as_they_were_busy_and_what_they_rest_anyway_counts() {
    let (mut rest, begun) = (Rest::default(), Instant::now());
    let busy = Duration::from_millis(1);
    for _ in 0..300 {
        tokio::time::advance(busy).await;
        rest.after(busy).await;
    }
    let took = begun.elapsed();
    assert!(
        took > 2 * (busy * 300 - REST_MIN) && took < busy * 610,
        "{took:?}"
    );
    let begun = Instant::now();
    for _ in 0..100 {
        tokio::time::advance(2 * busy).await;
        rest.after(busy).await;
    }
    assert!(begun.elapsed() < busy * 210, "{:?}", begun.elapsed());
    // A long rest is no reason to be busy for long.
    tokio::time::advance(Duration::from_secs(60)).await;
    rest.after(Duration::ZERO).await;
    let begun = Instant::now();
    tokio::time::advance(busy * 10).await;
    rest.after(busy * 10).await;
    assert!(begun.elapsed() >= busy * 20, "{:?}", begun.elapsed());
}

const AT: i64 = 1_900_000_000_000;

fn found(payload: Option<&[u8]>, expires_ms: Option<i64>) -> Found<'_> {
    Found { payload, expires_ms }
}

#[test]
fn a_key_is_the_same_or_differs_in_something() {
    let rules = Rules {
        skew_ms: 40,
        tolerance_ms: 0,
    };
    let of = |source: Found<'_>, target: Found<'_>| rules.compare(source, target);
    let some = Some(&b"payload"[..]);
    assert_eq!(of(found(None, None), found(None, None)), None);
    assert_eq!(of(found(some, None), found(some, None)), None);
    assert_eq!(
        of(found(some, None), found(None, None)),
        Some(Difference::TargetLacks)
    );
    assert_eq!(
        of(found(None, None), found(some, None)),
        Some(Difference::SourceLacks)
    );
    assert_eq!(
        of(found(some, None), found(Some(b"other"), None)),
        Some(Difference::Unreadable)
    );
    for target in [AT + 40, AT + 40 + PARK_KEY_MS] {
        assert_eq!(of(found(some, Some(AT)), found(some, Some(target))), None);
    }
    assert_eq!(
        of(found(some, Some(AT)), found(some, Some(AT + 41))),
        Some(Difference::Expiry(Some(AT), Some(AT + 1)))
    );
    assert_eq!(
        of(found(some, None), found(some, Some(AT + 40))),
        Some(Difference::Expiry(None, Some(AT)))
    );
    let loose = Rules {
        tolerance_ms: 2_000,
        ..rules
    };
    assert!(loose.is_same_expiry(Some(AT), Some(AT + 2_040)));
    assert!(!loose.is_same_expiry(Some(AT), Some(AT + 2_041)));
    assert!(rules.is_same_field_expiry(AT, AT + 40 + PARK_FIELD_MS));
    assert!(!rules.is_same_field_expiry(AT, -1));
    assert!(rules.is_same_field_expiry(-2, -2), "the field is gone on both");
    let told = |difference: Difference| difference.told("node 'a'", "node 'b'");
    assert_eq!(told(Difference::TargetLacks), "node 'b' does not have it");
    assert_eq!(told(Difference::SourceLacks), "only node 'b' has it");
    assert_eq!(
        told(Difference::Expiry(Some(AT), None)),
        format!("it expires at {AT} ms on node 'a' and never on node 'b'")
    );
}

#[test]
fn keys_are_named_to_people_and_cannot_break_their_line() {
    let told = |key: &[u8]| {
        let mismatch = Mismatch {
            db: DbIndex(7),
            key: Some(key.to_vec()),
            what: Difference::Value.told("here", "there"),
        };
        mismatch.told()
    };
    assert_eq!(
        told(b"a\r\n\xff"),
        "database 7, key \"a\\r\\n\\xff\": the values differ"
    );
    assert!(told(&[b'x'; 10_000]).len() < 300);
}

#[test]
fn an_order_that_came_meanwhile_counts_and_an_old_one_does_not() {
    let asked = Verification::asked(Sample::All);
    let running = Verification {
        state: VerifyState::Running,
        keys: 5,
        ..asked.clone()
    };
    assert_eq!(
        merged(Some(running.clone()), Some(asked.clone())),
        Some(running.clone())
    );
    let again = Verification::asked(Sample::Usual);
    assert_eq!(merged(Some(running.clone()), Some(again.clone())), Some(again));
    assert_eq!(merged(None, Some(asked.clone())), Some(asked.clone()));
    assert_eq!(merged(Some(running.clone()), None), Some(running.clone()));
    assert!(asked.is_open() && !asked.permits());
    let different = Verification {
        state: VerifyState::Different,
        mismatches: 2,
        found: vec!["database 1, key \"k\": the values differ".to_owned()],
        ..asked
    };
    assert!(!different.is_open() && !different.permits());
    assert!(
        different.why_not().contains("key \"k\""),
        "{}",
        different.why_not()
    );
    let mut ended = running.clone();
    ended.fail("why");
    assert_eq!((ended.state, ended.error.as_str()), (VerifyState::Failed, "why"));
    ended.fail("something else");
    assert_eq!(ended.error, "why", "what is over stays as it is");
    let text = serde_json::json!(Verification::asked(Sample::Keys(7))).to_string();
    let read: Verification = serde_json::from_str(&text).unwrap();
    assert_eq!(read.sample, Sample::Keys(7), "{text}");
}
