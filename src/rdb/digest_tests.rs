//! Tests of digests: values in all encodings, made by hand.

use proptest::collection::vec;
use proptest::prelude::*;

use super::crc64::crc64;
use super::testing::{compressed, length, listpack, stream, string, ziplist};
use super::{Digest, PARK_FIELD_MS, PARK_KEY_MS, unparked_field, unparked_key};

/// What `DUMP` gives for a value of this type.
fn payload(kind: u8, value: &[u8], version: u16) -> Vec<u8> {
    let mut bytes = [&[kind], value, &version.to_le_bytes()].concat();
    let checksum = crc64(0, &bytes).to_le_bytes();
    bytes.extend(checksum);
    bytes
}

fn digest(kind: u8, value: &[u8], version: u16) -> Digest {
    Digest::of(&payload(kind, value, version), 0).unwrap()
}

fn number(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

/// An entry of a listpack, with its length behind it.
fn packed(text: &[u8]) -> Vec<u8> {
    if let Some(number) = number(text) {
        return [&[0xf4][..], &number.to_le_bytes(), &[9]].concat();
    }
    let length = u32::try_from(text.len()).unwrap();
    let behind = if text.len() + 5 < 128 { 1 } else { 2 };
    [&[0xf0][..], &length.to_le_bytes(), text, &vec![0; behind]].concat()
}

/// An entry of a ziplist.
fn zipped(text: &[u8]) -> Vec<u8> {
    if let Some(number) = number(text) {
        return [&[0, 0xe0][..], &number.to_le_bytes()].concat();
    }
    let length = u32::try_from(text.len()).unwrap();
    [&[0, 0x80][..], &length.to_be_bytes(), text].concat()
}

fn all(parts: &[Vec<u8>], of: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    parts.iter().map(|part| of(part)).collect()
}

fn in_listpack(parts: &[Vec<u8>]) -> Vec<u8> {
    let entries = all(parts, packed);
    string(&listpack(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

fn in_ziplist(parts: &[Vec<u8>]) -> Vec<u8> {
    let entries = all(parts, zipped);
    compressed(&ziplist(&entries.iter().map(Vec::as_slice).collect::<Vec<_>>()))
}

/// Strings one behind the other, behind their count in elements of so many strings.
fn plain(parts: &[Vec<u8>], each: usize) -> Vec<u8> {
    [length(parts.len() / each), all(parts, string).concat()].concat()
}

fn pairs(parts: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let fields = parts.iter().enumerate();
    fields
        .flat_map(|(at, value)| [format!("{at}").into_bytes(), value.clone()])
        .collect()
}

fn turned(parts: &[Vec<u8>], each: usize) -> Vec<Vec<u8>> {
    parts.chunks(each).rev().flatten().cloned().collect()
}

fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        (-200_i64..5_000).prop_map(|number| number.to_string().into_bytes()),
        vec(any::<u8>(), 0..90),
    ]
}

proptest! {
    #[test]
    fn equal_values_have_one_digest_under_all_encodings_and_others_have_another(
        parts in vec(element(), 1..24),
        at in any::<proptest::sample::Index>(),
        other in element(),
    ) {
        let at = at.index(parts.len());
        let mut changed = parts.clone();
        changed[at] = other;
        let differs = changed != parts;
        let lists = |parts: &[Vec<u8>]| [
            digest(1, &plain(parts, 1), 9),
            digest(10, &in_ziplist(parts), 9),
            digest(14, &[length(1), in_ziplist(parts)].concat(), 9),
            digest(18, &[length(1), vec![2], in_listpack(parts)].concat(), 11),
        ];
        let hashes = |parts: &[Vec<u8>]| {
            let pairs = pairs(parts);
            [
                digest(4, &plain(&pairs, 2), 9),
                digest(4, &plain(&turned(&pairs, 2), 2), 12),
                digest(13, &in_ziplist(&pairs), 9),
                digest(16, &in_listpack(&turned(&pairs, 2)), 80),
            ]
        };
        for of in [&lists as &dyn Fn(&[Vec<u8>]) -> [Digest; 4], &hashes] {
            let (one, two) = (of(&parts), of(&changed));
            prop_assert!(one.iter().all(|digest| *digest == one[0]));
            prop_assert!(two.iter().all(|digest| *digest == two[0]));
            prop_assert_eq!(one[0] != two[0], differs);
        }
        // The order is part of a list, and of nothing else.
        let back = turned(&parts, 1);
        prop_assert_eq!(lists(&parts)[0] == lists(&back)[0], back == parts);
        let sets = |parts: &[Vec<u8>]| [digest(2, &plain(parts, 1), 9), digest(20, &in_listpack(&turned(parts, 1)), 11)];
        prop_assert_eq!(sets(&parts)[0], sets(&parts)[1]);
        prop_assert_eq!(sets(&parts)[0] != sets(&changed)[0], differs);
        prop_assert_ne!(sets(&parts)[0], lists(&parts)[0]);
    }

    #[test]
    fn scores_are_compared_as_numbers(scores in vec(-1e9_f64..1e9, 1..12), less in any::<proptest::sample::Index>()) {
        let member = |at: usize| format!("m{at}").into_bytes();
        let text: Vec<Vec<u8>> = scores.iter().enumerate().flat_map(|(at, score)| [member(at), format!("{score:e}").into_bytes()]).collect();
        let binary = |scores: &[f64]| {
            let of = |(at, score): (usize, &f64)| [string(&member(at)), score.to_le_bytes().to_vec()].concat();
            [length(scores.len()), scores.iter().enumerate().map(of).collect::<Vec<_>>().concat()].concat()
        };
        let one = digest(5, &binary(&scores), 9);
        prop_assert_eq!(one, digest(17, &in_listpack(&turned(&text, 2)), 11));
        prop_assert_eq!(one, digest(12, &in_ziplist(&text), 9));
        let mut changed = scores.clone();
        let at = less.index(scores.len());
        changed[at] = changed[at].next_down();
        prop_assert_ne!(one, digest(5, &binary(&changed), 9));
    }
}

#[test]
fn strings_are_their_bytes() {
    let one = digest(0, &string(b"1234"), 9);
    assert_eq!(one, digest(0, &[0xc1, 0xd2, 0x04], 11), "a number is its decimal");
    assert_ne!(one, digest(0, &string(b"1235"), 9));
    let long = [b"a".repeat(300), b"b".to_vec()].concat();
    assert_eq!(digest(0, &compressed(&long), 9), digest(0, &string(&long), 9));
    assert_eq!(digest(0, &string(b""), 9), digest(0, &string(b""), 12));
    let zero = |score: f64| {
        digest(
            5,
            &[length(1), string(b"m"), score.to_le_bytes().to_vec()].concat(),
            9,
        )
    };
    assert_eq!(zero(0.0), zero(-0.0));
}

#[test]
fn a_hyperloglog_is_the_same_whatever_count_it_has_cached() {
    let of = |cached: &[u8; 8], register: u8| {
        let value = [b"HYLL\x01\0\0\0", &cached[..], &[register, 1]].concat();
        digest(0, &string(&value), 9)
    };
    assert_eq!(of(b"12345678", 7), of(&[0x80; 8], 7));
    assert_ne!(of(b"12345678", 7), of(b"12345678", 8));
    assert_ne!(digest(0, &string(b"HYLL"), 9), digest(0, &string(b"HYLX"), 9));
}

#[test]
fn numbers_in_a_set_are_its_members() {
    let intset = string(&[&[2, 0, 0, 0, 2, 0, 0, 0][..], &[1, 0, 0xfe, 0xff]].concat());
    assert_eq!(
        digest(11, &intset, 9),
        digest(2, &plain(&[b"-2".to_vec(), b"1".to_vec()], 1), 9)
    );
}

#[test]
fn expiries_of_fields_count_and_parked_ones_are_taken_back() {
    let least = 1_900_000_000_000_i64;
    let metadata = |first: i64, behind: usize| {
        let body = [
            length(2),
            length(1),
            string(b"f"),
            string(b"v"),
            length(behind),
            string(b"g"),
            string(b"w"),
        ];
        payload(24, &[&first.to_le_bytes()[..], &body.concat()].concat(), 12)
    };
    let of = |payload: &[u8], ahead| Digest::of(payload, ahead).unwrap();
    let real = of(&metadata(least, 0), 0);
    assert_eq!(real, of(&metadata(least + PARK_FIELD_MS, 0), 0));
    assert_eq!(
        real,
        of(&metadata(least + 700, 0), 700),
        "by the clock of the other"
    );
    assert_ne!(real, of(&metadata(least + 1, 0), 0));
    assert_ne!(real, of(&metadata(least, 5), 0), "another field expires too");
    let whenever = |payload: &[u8]| Digest::whenever(payload).unwrap();
    assert_eq!(whenever(&metadata(least, 0)), whenever(&metadata(least + 9, 0)));
    assert_ne!(whenever(&metadata(least, 0)), whenever(&metadata(least, 5)));
    let valkey = [
        length(2),
        string(b"g"),
        string(b"w"),
        (-1_i64).to_le_bytes().to_vec(),
        string(b"f"),
        string(b"v"),
    ]
    .concat();
    let valkey = [valkey, least.to_le_bytes().to_vec()].concat();
    assert_eq!(real, digest(22, &valkey, 80));
    let none = [
        length(2),
        string(b"f"),
        string(b"v"),
        (-1_i64).to_le_bytes().to_vec(),
        string(b"g"),
        string(b"w"),
    ]
    .concat();
    let none = digest(22, &[none, (-1_i64).to_le_bytes().to_vec()].concat(), 80);
    let words = [&b"f"[..], b"v", b"g", b"w"].map(<[u8]>::to_vec);
    assert_eq!(
        none,
        digest(4, &plain(&words, 2), 9),
        "a hash of which nothing expires"
    );
    assert_eq!(unparked_key(least + PARK_KEY_MS), least);
    assert_eq!((unparked_key(least), unparked_field(7)), (least, 7));
}

#[test]
fn of_a_stream_count_entries_groups_and_what_is_pending() {
    let value = stream();
    let one = digest(21, &value, 11);
    let with = |from: &[u8], to: &[u8]| {
        let at = value.windows(from.len()).position(|bytes| bytes == from).unwrap();
        let mut other = value.clone();
        other[at..at + from.len()].copy_from_slice(to);
        digest(21, &other, 11)
    };
    assert_ne!(one, with(b"\x81v\x02", b"\x81w\x02"), "a value");
    assert_ne!(one, with(b"readers", b"writers"), "a group");
    assert_ne!(one, with(b"\x02me", b"\x02no"), "a consumer");
    assert_eq!(
        one,
        with(&7_i64.to_le_bytes(), &6_i64.to_le_bytes()),
        "when it was delivered"
    );
    assert_eq!(
        one,
        with(&8_i64.to_le_bytes(), &9_i64.to_le_bytes()),
        "when the consumer was seen"
    );
}

#[test]
fn what_is_no_payload_is_refused() {
    let good = payload(2, &plain(&[b"a".to_vec()], 1), 9);
    assert!(Digest::of(&good, 0).is_ok());
    assert!(Digest::of(&[], 0).is_err());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(Digest::of(&bad, 0).is_err(), "a flipped bit in byte {at}");
        assert!(Digest::of(&good[..at], 0).is_err(), "cut at {at}");
    }
    assert!(
        Digest::of(&payload(7, &[1, 0], 9), 0).is_err(),
        "a module's value"
    );
    assert!(
        Digest::of(&payload(77, &[1, 0], 9), 0).is_err(),
        "an unknown type"
    );
}
