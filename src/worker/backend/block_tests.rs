//! Several frames for one request: whatever a node sends, nobody is given a frame that is not his.

use crate::command::CommandId;
use crate::ids::ShardId;
use crate::metrics::{Disconnect, LinkClose, RequestClass};
use crate::worker::backend::link::Reading;
use crate::worker::backend::{Entry, Owner, Shape, State};
use crate::worker::engine::Engine;
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

const LINK: usize = 0;

/// Makes a request of a client look as if it had been sent.
fn sent(engine: &mut Engine, peer: &Peer, shape: Shape, frames: u32) {
    let bytes = 20;
    let seq = engine.push_slot(peer.index, CommandId::NONE, 20, RequestClass::Multi);
    let link = &mut engine.links[LINK];
    link.state = State::Ready;
    link.due_bytes += bytes as usize;
    link.due.push_back(Entry {
        owner: Owner::Client {
            index: u32::try_from(peer.index).unwrap(),
            generation: peer.generation,
            seq,
        },
        bytes,
        since: 0,
        shard: ShardId(0),
        large: false,
        shape,
        frames,
    });
}

fn fence(engine: &Engine) -> Vec<u8> {
    engine.links[LINK].fence.clone()
}

/// Feeds bytes in chunks of this size.
fn feed(engine: &mut Engine, bytes: &[u8], chunk: usize) -> Result<(), LinkClose> {
    bytes
        .chunks(chunk)
        .try_for_each(|chunk| engine.link_input(LINK, chunk))
}

#[test]
fn a_transaction_gives_its_last_frame_a_script_the_one_before_its_fence_and_a_helper_its_first_wherever_the_bytes_are_cut()
 {
    in_runtime(async {
        for chunk in [1, 2, 3, 7, 64, 4096] {
            let mut engine = engine(limits());
            let mut peer = connect(&mut engine).await;
            sent(&mut engine, &peer, Shape::Transaction, 4);
            sent(&mut engine, &peer, Shape::Plain, 1);
            sent(&mut engine, &peer, Shape::Fenced, 2);
            sent(&mut engine, &peer, Shape::FencedTransaction, 4);
            sent(&mut engine, &peer, Shape::First, 3);
            sent(&mut engine, &peer, Shape::Plain, 1);
            let fence = fence(&engine);
            let mut bytes =
                b"+OK\r\n+QUEUED\r\n-ERR no\r\n*2\r\n:1\r\n$2\r\nab\r\n:7\r\n$5\r\nhello\r\n".to_vec();
            bytes.extend_from_slice(&fence);
            bytes.extend_from_slice(b"+OK\r\n+QUEUED\r\n*1\r\n:3\r\n");
            bytes.extend_from_slice(&fence);
            bytes.extend_from_slice(b":8\r\n-NOSCRIPT x\r\n+QUEUED\r\n:9\r\n");
            assert_eq!(feed(&mut engine, &bytes, chunk), Ok(()));
            let expected = b"*2\r\n:1\r\n$2\r\nab\r\n:7\r\n$5\r\nhello\r\n*1\r\n:3\r\n:8\r\n:9\r\n";
            let given = peer.read_all(&mut engine, expected.len()).await;
            assert_eq!(given, expected, "in chunks of {chunk}");
            assert!(engine.links[LINK].due.is_empty());
        }
    });
}

#[test]
fn a_script_that_is_answered_twice_closes_the_link_before_anybody_sees_it() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peers = [connect(&mut engine).await, connect(&mut engine).await];
        sent(&mut engine, &peers[0], Shape::Fenced, 2);
        sent(&mut engine, &peers[1], Shape::Fenced, 2);
        let mut bytes = b"-ERR flags=a\r\n+INJECTED\r\n".to_vec();
        bytes.extend_from_slice(&fence(&engine));
        assert_eq!(feed(&mut engine, &bytes, 4096), Err(LinkClose::ExtraReply));
        let link = &engine.links[LINK];
        link.cells.link_opened(link.wire());
        engine.link_closed(LINK, LinkClose::ExtraReply);
        for peer in &mut peers {
            let given = peer.read_all(&mut engine, 1).await;
            assert!(given.starts_with(b"-UNCERTAIN "), "{given:?}");
        }
    });
}

#[test]
fn a_refused_multi_closes_the_link_for_its_commands_have_run_by_themselves() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        sent(&mut engine, &peer, Shape::Transaction, 3);
        let outcome = feed(
            &mut engine,
            b"-NOPERM no\r\n+OK\r\n-ERR EXEC without MULTI\r\n",
            4096,
        );
        assert_eq!(outcome, Err(LinkClose::MultiFailed));
        let link = &engine.links[LINK];
        link.cells.link_opened(link.wire());
        engine.link_closed(LINK, LinkClose::MultiFailed);
        let given = peer.read_all(&mut engine, 1).await;
        assert!(given.starts_with(b"-UNCERTAIN "), "{given:?}");
    });
}

#[test]
fn a_frame_too_many_never_makes_a_step_of_a_transaction_its_reply() {
    in_runtime(async {
        for (shape, bytes) in [
            (Shape::Transaction, &b"+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n:1\r\n"[..]),
            (Shape::Transaction, b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*1\r\n:1\r\n"),
            (
                Shape::FencedTransaction,
                b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*1\r\n:1\r\n",
            ),
        ] {
            for chunk in [1, 5, 4096] {
                let mut engine = engine(limits());
                let mut peer = connect(&mut engine).await;
                let fenced = u32::from(shape == Shape::FencedTransaction);
                sent(&mut engine, &peer, shape, 3 + fenced);
                assert_eq!(feed(&mut engine, bytes, chunk), Err(LinkClose::MultiFailed));
                let link = &engine.links[LINK];
                link.cells.link_opened(link.wire());
                engine.link_closed(LINK, LinkClose::MultiFailed);
                let given = peer.read_all(&mut engine, 1).await;
                assert!(given.starts_with(b"-UNCERTAIN "), "{given:?}");
            }
        }
    });
}

#[test]
fn a_script_may_answer_like_a_broken_node_without_harm() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        sent(&mut engine, &peer, Shape::Fenced, 2);
        let mut bytes = b"-NOAUTH said the script\r\n".to_vec();
        bytes.extend_from_slice(&fence(&engine));
        assert_eq!(feed(&mut engine, &bytes, 4096), Ok(()));
        let given = peer.read_all(&mut engine, 1).await;
        assert_eq!(given, b"-NOAUTH said the script\r\n");
    });
}

#[test]
fn the_reply_of_a_script_is_kept_whole_up_to_the_output_limit() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_hard = 300_000;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        sent(&mut engine, &peer, Shape::Fenced, 2);
        sent(&mut engine, &peer, Shape::Fenced, 2);
        let mut bytes = format!("${}\r\n", 500_000).into_bytes();
        bytes.resize(bytes.len() + 500_000, b'x');
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&fence(&engine));
        bytes.extend_from_slice(b":5\r\n");
        bytes.extend_from_slice(&fence(&engine));
        assert_eq!(feed(&mut engine, &bytes, 16 * 1024), Ok(()));
        let given = peer.read_all(&mut engine, 1).await;
        assert!(given.starts_with(b"-UNCERTAIN "), "{} bytes", given.len());
        assert!(given.ends_with(b"\r\n:5\r\n"));
    });
}

#[test]
fn a_large_reply_of_a_transaction_may_end_like_a_step_of_one() {
    in_runtime(async {
        let step = b"+QUEUED\r\n";
        let mut start = b"+OK\r\n+QUEUED\r\n*1\r\n$200007\r\n".to_vec();
        start.resize(start.len() + 200_000, b'x');
        for (shape, leaves) in [
            (Shape::Transaction, false),
            (Shape::Transaction, true),
            (Shape::FencedTransaction, false),
        ] {
            let mut limits = limits();
            let fenced = shape == Shape::FencedTransaction;
            if fenced {
                limits.output_hard = 100_000;
            }
            let mut engine = engine(limits);
            let mut peer = connect(&mut engine).await;
            sent(&mut engine, &peer, shape, 3 + u32::from(fenced));
            if leaves {
                engine.close_client(peer.index, peer.generation, Disconnect::Client);
            }
            assert_eq!(feed(&mut engine, &start, start.len()), Ok(()));
            assert!(engine.links[LINK].reading != Reading::Whole, "{shape:?}");
            assert_eq!(feed(&mut engine, step, step.len()), Ok(()), "{shape:?}, {leaves}");
            if fenced {
                let fence = fence(&engine);
                assert_eq!(feed(&mut engine, &fence, fence.len()), Ok(()));
                assert!(peer.read_all(&mut engine, 1).await.starts_with(b"-UNCERTAIN "));
            } else if !leaves {
                let given = peer.read_all(&mut engine, 200_000).await;
                assert!(given.ends_with(b"xx+QUEUED\r\n"), "{} bytes", given.len());
            }
            assert!(engine.links[LINK].due.is_empty());
        }
    });
}
