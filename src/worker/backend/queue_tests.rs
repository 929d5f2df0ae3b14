//! The backlog: requests of a shard leave whole and in order, shards take turns, memory follows what waits.

use proptest::prelude::*;

use super::*;

fn entry(shard: u16, number: u32, bytes: usize) -> Entry {
    Entry {
        owner: Owner::Client {
            index: 0,
            generation: 0,
            seq: number,
        },
        bytes: u32::try_from(bytes).unwrap(),
        since: number,
        shard: ShardId(shard),
        large: false,
        shape: Shape::Plain,
        frames: 1,
    }
}

fn backlog(shards: u16) -> Backlog {
    Backlog::new((0..shards).map(DbIndex))
}

fn seq(entry: &Entry) -> u32 {
    match entry.owner {
        Owner::Client { seq, .. } => seq,
        Owner::Gather { .. } | Owner::Select | Owner::Tombstone | Owner::Order => u32::MAX,
    }
}

fn drain_all(backlog: &mut Backlog, step: usize) -> Vec<Entry> {
    let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
    while backlog.front().is_some() {
        backlog.drain_front((step, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
    }
    assert_eq!(
        out.len(),
        due.iter().map(|entry| entry.bytes as usize).sum::<usize>()
    );
    due.into()
}

#[test]
fn shards_take_turns_and_keep_their_order() {
    let mut backlog = backlog(3);
    for (number, shard) in [2, 0, 2, 1, 0, 2].into_iter().enumerate() {
        backlog.push(entry(shard, u32::try_from(number).unwrap(), 4), b"abcd");
    }
    assert_eq!((backlog.len(), backlog.bytes()), (6, 24));
    let sent: Vec<u32> = drain_all(&mut backlog, 2).iter().map(seq).collect();
    assert_eq!(sent, [0, 2, 1, 4, 3, 5]);
    assert_eq!((backlog.len(), backlog.bytes()), (0, 0));
}

#[test]
fn compacting_keeps_order_sizes_and_large_frames() {
    let mut backlog = backlog(2);
    let large = vec![b'x'; LARGE_BYTES];
    for number in 0..2_000_u32 {
        if number % 500 == 499 {
            backlog.push(entry(1, number, large.len()), &large);
        } else {
            backlog.push(entry(u16::from(number >= 1_700), number, 3), b"abc");
        }
    }
    let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
    backlog.drain_front((1_690, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
    assert!(backlog.entries.len() < 400, "it was compacted");
    let rest = drain_all(&mut backlog, usize::MAX);
    let of = |shard: u16| {
        rest.iter()
            .filter(move |entry| entry.shard == ShardId(shard))
            .map(seq)
            .collect::<Vec<_>>()
    };
    assert!(of(0).is_sorted() && of(1).is_sorted());
    assert_eq!(due.len() + rest.len(), 2_000);
    assert_eq!(rest.iter().filter(|entry| entry.large).count(), 4);
}

#[test]
fn old_requests_are_taken_and_young_ones_stay() {
    let mut backlog = backlog(2);
    for number in 0..10 {
        backlog.push(entry(u16::from(number % 2 == 0), number, 1), b"a");
    }
    let old: Vec<u32> = backlog.take_older(20, 15).iter().map(seq).collect();
    assert_eq!(old.len(), 6, "those of 0..=5");
    assert_eq!(backlog.len(), 4);
    assert_eq!(drain_all(&mut backlog, 1).len(), 4);
}

#[test]
fn the_busiest_shard_does_not_keep_the_others_waiting() {
    let mut backlog = backlog(3);
    let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
    for shard in [0, 0, 0, 0, 1, 2] {
        backlog.push(entry(shard, 0, 1), b"a");
    }
    for _ in 0..3 {
        backlog.push(entry(0, 0, 1), b"a");
        backlog.drain_front((1, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
    }
    let shards: Vec<u16> = due.iter().map(|entry| entry.shard.0).collect();
    assert_eq!(shards, [0, 1, 2]);
}

/// The frame of request `number`: as long as asked, and different from all others.
fn frame(number: u32, length: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

#[derive(Clone, Debug)]
enum Act {
    Push(u16, usize),
    /// A crowd of small ones, so that there is something to move together.
    Crowd(u16),
    Drain(usize),
    Pop,
    Prefer(u16),
    Expire(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0_u16..4, 4_usize..200).prop_map(|(shard, length)| Act::Push(shard, length)),
        1 => (0_u16..4, LARGE_BYTES - 2..LARGE_BYTES + 2).prop_map(|(shard, length)| Act::Push(shard, length)),
        1 => (0_u16..4).prop_map(Act::Crowd),
        3 => (0_usize..400).prop_map(Act::Drain),
        1 => Just(Act::Drain(usize::MAX)),
        1 => Just(Act::Pop),
        1 => (0_u16..4).prop_map(Act::Prefer),
        1 => (0_u32..600).prop_map(Act::Expire),
    ]
}

/// Takes what a model has of the oldest request of an entry's shard; it must be that request.
fn expect_oldest(model: &mut [VecDeque<(u32, Vec<u8>)>], entry: &Entry) -> Vec<u8> {
    let (number, bytes) = model[entry.shard.index()]
        .pop_front()
        .expect("a request that waits");
    assert_eq!((seq(entry), entry.bytes as usize), (number, bytes.len()));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is taken, given up or moved together, requests of a shard leave in order and whole, large and small
    /// ones mixed, and the counts are those of what waits.
    #[test]
    fn requests_leave_whole_and_in_their_shards_order(acts in prop::collection::vec(act(), 1..60)) {
        let mut backlog = backlog(4);
        let mut model: Vec<VecDeque<(u32, Vec<u8>)>> = vec![VecDeque::new(); 4];
        let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
        let mut next = 0;
        for act in acts {
            let mut push = |shard: u16, length: usize| {
                let bytes = frame(next, length);
                backlog.push(entry(shard, next, length), &bytes);
                model[usize::from(shard)].push_back((next, bytes));
                next += 1;
            };
            match act {
                Act::Push(shard, length) => push(shard, length),
                Act::Crowd(shard) => (0..500).for_each(|_| push(shard, 8)),
                Act::Drain(count) => {
                    let front = backlog.front();
                    let moved = backlog.drain_front((count, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
                    prop_assert_eq!(out.len(), moved);
                    let mut sent = Vec::new();
                    for entry in due.drain(..) {
                        prop_assert_eq!(Some(entry.shard), front.map(|(shard, _)| shard));
                        sent.extend(expect_oldest(&mut model, &entry));
                    }
                    prop_assert!(out.unwritten() == sent, "other bytes than were put in");
                    out.clear(&mut spares);
                }
                Act::Pop => match backlog.pop() {
                    Some(entry) => {
                        expect_oldest(&mut model, &entry);
                    }
                    None => prop_assert!(model.iter().all(VecDeque::is_empty)),
                },
                Act::Prefer(shard) => {
                    backlog.prefer(DbIndex(shard));
                    if !model[usize::from(shard)].is_empty() {
                        prop_assert_eq!(backlog.front(), Some((ShardId(shard), DbIndex(shard))));
                    }
                }
                Act::Expire(age) => {
                    for entry in backlog.take_older(next, u64::from(age)) {
                        prop_assert!(next - entry.since >= age);
                        expect_oldest(&mut model, &entry);
                    }
                    let young = |(number, _): &(u32, Vec<u8>)| next - number < age;
                    prop_assert!(model.iter().flatten().all(young));
                }
            }
            let waiting = || model.iter().flatten();
            prop_assert_eq!((backlog.len(), backlog.is_empty()), (waiting().count(), waiting().count() == 0));
            prop_assert_eq!(backlog.bytes(), waiting().map(|(_, bytes)| bytes.len()).sum::<usize>());
            prop_assert_eq!(backlog.shards(), model.iter().filter(|chain| !chain.is_empty()).count());
        }
    }
}

#[test]
fn a_few_small_requests_do_not_keep_the_bytes_of_many_that_were_sent() {
    let mut backlog = backlog(2);
    let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
    for number in 0..300 {
        backlog.push(entry(1, number, 4), b"abcd");
        backlog.push(entry(0, number, LARGE_BYTES - 1), &vec![b'x'; LARGE_BYTES - 1]);
    }
    backlog.prefer(DbIndex(0));
    backlog.drain_front((usize::MAX, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
    assert_eq!((backlog.len(), backlog.bytes()), (300, 1200));
    assert!(
        backlog.bytes.capacity() <= KEPT_BYTES,
        "{}",
        backlog.bytes.capacity()
    );
}

#[test]
fn a_backlog_that_is_never_empty_keeps_not_much_more_than_what_waits() {
    let mut backlog = backlog(1);
    let (mut out, mut due, mut spares) = (OutBuf::default(), VecDeque::new(), Spares::default());
    let bytes = frame(1, 1000);
    backlog.push(entry(0, 0, bytes.len()), &bytes);
    for _ in 0..20_000 {
        backlog.push(entry(0, 0, bytes.len()), &bytes);
        backlog.drain_front((1, usize::MAX), &mut out, &mut due, &mut spares, |_| ());
        out.clear(&mut spares);
        due.clear();
    }
    assert_eq!(backlog.len(), 1);
    assert!(backlog.bytes.capacity() <= 2 * COMPACT_MIN * bytes.len());
}
