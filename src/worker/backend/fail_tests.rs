//! A connection ends while requests are on their way: who has not run, and who may have.

use proptest::prelude::*;

use super::super::block::push_fence;
use super::super::queue::Shape;
use super::*;
use crate::command::CommandId;
use crate::metrics::RequestClass;
use crate::worker::secured::testing::{Reader, stalled};
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

const LINK: usize = 0;

/// An engine whose link is connected, as far as its metrics go.
fn linked() -> Engine {
    let engine = engine(limits());
    let link = &engine.links[LINK];
    link.cells.link_opened(link.wire());
    engine
}

/// Makes a request of a client look as if it had been given to the link's socket, which has not taken it yet.
fn push(engine: &mut Engine, peer: &Peer, (shape, frames): (Shape, u32), frame: &[u8]) {
    let seq = engine.push_slot(peer.index, CommandId::NONE, frame.len(), RequestClass::Read);
    let link = &mut engine.links[LINK];
    link.state = State::Ready;
    link.due_bytes += frame.len();
    link.due.push_back(Entry {
        owner: Owner::Client {
            index: u32::try_from(peer.index).unwrap(),
            generation: peer.generation,
            seq,
        },
        bytes: u32::try_from(frame.len()).unwrap(),
        since: 0,
        shard: ShardId(0),
        large: false,
        shape,
        frames,
    });
    link.out.push(frame, &mut engine.spares);
}

/// The first word of each reply that a client has got.
async fn words(engine: &mut Engine, peer: &mut Peer, replies: usize) -> Vec<String> {
    let got = peer.read_all(engine, replies * 10).await;
    let got = String::from_utf8(got).unwrap();
    let word = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    got.lines().map(word).collect()
}

/// What is said of one request of which the node has read all but the last `unsent` bytes.
fn said(shape: (Shape, u32), frame: impl Fn(&Engine) -> Vec<u8>, unsent: usize) -> String {
    in_runtime(async {
        let mut engine = linked();
        let mut peer = connect(&mut engine).await;
        let frame = frame(&engine);
        push(&mut engine, &peer, shape, &frame);
        let link = &mut engine.links[LINK];
        link.out.clear(&mut engine.spares);
        link.out.push(&frame[frame.len() - unsent..], &mut engine.spares);
        engine.link_closed(LINK, LinkClose::Io);
        words(&mut engine, &mut peer, 1).await.remove(0)
    })
}

#[test]
fn what_is_a_block_has_not_run_only_if_no_frame_that_counts_has_left() {
    const EVAL: &[u8] = b"*3\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n0\r\n";
    const BLOCK: &[u8] =
        b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*1\r\n$4\r\nEXEC\r\n";
    const FIRST: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n";
    let plain = |bytes: &'static [u8]| move |_: &Engine| bytes.to_vec();
    let fenced = |bytes: &'static [u8]| {
        move |engine: &Engine| {
            let mut frame = bytes.to_vec();
            push_fence(&engine.links[LINK].fence, &mut frame);
            frame
        }
    };
    let fence = {
        let mut fence = Vec::new();
        in_runtime(async { push_fence(&linked().links[LINK].fence, &mut fence) });
        fence.len()
    };
    let all_of = |bytes: &[u8]| bytes.len();
    for (unsent, expected) in [(0, "-UNCERTAIN"), (1, "-TRYAGAIN"), (all_of(EVAL), "-TRYAGAIN")] {
        assert_eq!(said((Shape::Plain, 1), plain(EVAL), unsent), expected);
        assert_eq!(said((Shape::Transaction, 3), plain(BLOCK), unsent), expected);
    }
    for (unsent, expected) in [
        (0, "-UNCERTAIN"),
        (1, "-UNCERTAIN"),
        (fence, "-UNCERTAIN"),
        (fence + 1, "-TRYAGAIN"),
        (fence + EVAL.len(), "-TRYAGAIN"),
    ] {
        assert_eq!(
            said((Shape::Fenced, 2), fenced(EVAL), unsent),
            expected,
            "{unsent}"
        );
        assert_eq!(
            said((Shape::FencedTransaction, 4), fenced(BLOCK), unsent),
            expected,
            "{unsent}"
        );
    }
    for (unsent, expected) in [
        (1, "-UNCERTAIN"),
        (FIRST.len() - 1, "-UNCERTAIN"),
        (FIRST.len(), "-TRYAGAIN"),
    ] {
        assert_eq!(
            said((Shape::First, 2), plain(FIRST), unsent),
            expected,
            "{unsent}"
        );
    }
}

#[test]
fn a_script_is_answered_before_the_last_of_its_fence_is_out() {
    for (shape, answered) in [
        ((Shape::Plain, 1), Err(LinkClose::ExtraReply)),
        ((Shape::Fenced, 2), Ok(())),
    ] {
        in_runtime(async {
            let mut engine = linked();
            let peer = connect(&mut engine).await;
            push(&mut engine, &peer, shape, &[b'x'; 100]);
            let link = &mut engine.links[LINK];
            link.out.clear(&mut engine.spares);
            link.out.push(b"x", &mut engine.spares);
            assert_eq!(engine.link_input(LINK, b":1\r\n"), answered, "{shape:?}");
        });
    }
}

const REQUEST: usize = 1000;

/// Requests of a thousand bytes behind a node's TLS connection that has become full in the middle of them; what has reached it.
async fn full_in_the_middle(engine: &mut Engine, peer: &Peer) -> (usize, Reader) {
    let (stream, mut reader) = stalled().await;
    engine.links[LINK].stream = Some(stream);
    for _ in 0..4000 {
        push(engine, peer, (Shape::Plain, 1), &[b'x'; REQUEST]);
    }
    let mut read = 0;
    loop {
        let Engine { links, spares, .. } = engine;
        let link = &mut links[LINK];
        let stream = link.stream.as_mut().unwrap();
        let is_full = !link.out.write_to(stream, spares).unwrap();
        assert!(
            is_full && stream.owed() > 0,
            "it was never full in the middle of a piece"
        );
        let mut pauses = 0;
        while pauses < 1000 {
            let more = reader.read();
            read += more;
            pauses = if more == 0 { pauses + 1 } else { 0 };
            tokio::task::yield_now().await;
        }
        // As a rule; not if less than one record of the last piece has left.
        if read > link.due_bytes - link.out.len() {
            break;
        }
    }
    (read, reader)
}

#[test]
fn what_left_a_tls_session_in_part_may_have_run() {
    in_runtime(async {
        let mut engine = linked();
        let mut peer = connect(&mut engine).await;
        let (read, _reader) = full_in_the_middle(&mut engine, &peer).await;
        engine.link_closed(LINK, LinkClose::Io);
        let words = words(&mut engine, &mut peer, 4000).await;
        assert_eq!(words.len(), 4000);
        for (number, word) in words.iter().enumerate() {
            let has_come = (number + 1) * REQUEST <= read;
            assert!(
                !has_come || word == "-UNCERTAIN",
                "request {number} of {read} bytes: {word}"
            );
        }
        assert_eq!(words[3999], "-TRYAGAIN", "what never left");
    });
}

#[test]
fn a_node_that_answers_what_left_a_tls_session_in_part_says_nothing_odd() {
    in_runtime(async {
        let mut engine = linked();
        let mut peer = connect(&mut engine).await;
        let (read, _reader) = full_in_the_middle(&mut engine, &peer).await;
        let replies = b"+OK\r\n".repeat(read / REQUEST);
        assert_eq!(engine.link_input(LINK, &replies), Ok(()));
        assert_eq!(peer.read_all(&mut engine, replies.len()).await, replies);
        // More than can have come is as odd as ever.
        let rest = engine.links[LINK].due.len();
        let odd = engine.link_input(LINK, &b"+OK\r\n".repeat(rest));
        assert_eq!(odd, Err(LinkClose::ExtraReply));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever shapes stand one behind the other and wherever the bytes stop: what is said not to have run stands at the end.
    #[test]
    fn what_has_not_run_stands_at_the_end(shapes in prop::collection::vec(0_usize..3, 1..20), cut in 0_usize..2000) {
        in_runtime(async {
            let mut engine = linked();
            let mut peer = connect(&mut engine).await;
            let mut all = 0;
            for shape in &shapes {
                let shape = [(Shape::Plain, 1), (Shape::First, 2), (Shape::Fenced, 2)][*shape];
                push(&mut engine, &peer, shape, &[b'x'; 100]);
                all += 100;
            }
            let unsent = cut.min(all);
            let link = &mut engine.links[LINK];
            link.out.clear(&mut engine.spares);
            link.out.push(&vec![b'x'; unsent], &mut engine.spares);
            engine.link_closed(LINK, LinkClose::Io);
            let words = words(&mut engine, &mut peer, shapes.len()).await;
            let first = words.iter().position(|word| word == "-TRYAGAIN").unwrap_or(words.len());
            prop_assert!(words[first..].iter().all(|word| word == "-TRYAGAIN"));
            prop_assert!(first * 100 >= (all - unsent) / 100 * 100, "{} of {} sent bytes", first, all - unsent);
            Ok(())
        })?;
    }
}
