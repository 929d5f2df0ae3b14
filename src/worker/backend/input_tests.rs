//! From a node's bytes to its clients' replies, cut anywhere: nobody gets what is not his.

use proptest::prelude::*;

use super::link::{Batch, State};
use super::queue::{Entry, Owner, Shape};
use crate::command::CommandId;
use crate::ids::ShardId;
use crate::metrics::{Disconnect, Limit, LinkClose, RequestClass, Wire};
use crate::worker::engine::Engine;
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};

const LINK: usize = 0;

/// Makes a request of `owner` look as if it had been sent.
fn sent(engine: &mut Engine, owner: Owner) {
    let bytes = 20;
    let link = &mut engine.links[LINK];
    link.state = State::Ready;
    link.due_bytes += bytes as usize;
    link.selects_due += usize::from(owner == Owner::Select);
    link.due.push_back(Entry {
        owner,
        bytes,
        since: 0,
        shard: ShardId(0),
        large: false,
        shape: Shape::Plain,
        frames: 1,
    });
}

fn sent_by(engine: &mut Engine, peer: &Peer) {
    let seq = engine.push_slot(peer.index, CommandId::NONE, 20, RequestClass::Read);
    let owner = Owner::Client {
        index: u32::try_from(peer.index).unwrap(),
        generation: peer.generation,
        seq,
    };
    sent(engine, owner);
}

/// Whose a reply is.
#[derive(Clone, Debug)]
enum Whose {
    Client(usize),
    Nobody,
    Select,
}

fn whose() -> impl Strategy<Value = Whose> {
    prop_oneof![
        6 => (0_usize..3).prop_map(Whose::Client),
        1 => Just(Whose::Nobody),
        1 => Just(Whose::Select),
    ]
}

fn reply(number: usize, length: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(value.len() + length, b"abcdefghij"[number % 10]);
    let mut reply = format!("${}\r\n", value.len()).into_bytes();
    reply.extend(value);
    reply.extend_from_slice(b"\r\n");
    reply
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two of three clients stay to the end; the third leaves in the middle. Replies to it, to requests that were
    /// given up and to SELECT are between those of the others.
    #[test]
    fn everybody_gets_his_own_wherever_the_bytes_are_cut(
        requests in prop::collection::vec((whose(), prop_oneof![9 => 0_usize..50, 1 => 60_000_usize..140_000]), 1..40),
        chunk in prop_oneof![1_usize..50, 1000_usize..200_000],
        leaves_after in 0_usize..40,
    ) {
        in_runtime(async {
            let mut engine = engine(limits());
            let mut peers = Vec::new();
            for _ in 0..3 {
                peers.push(connect(&mut engine).await);
            }
            let mut stream = Vec::new();
            let mut expected = vec![Vec::new(); 3];
            let mut leaves_at = usize::MAX;
            for (number, (whose, length)) in requests.iter().enumerate() {
                match whose {
                    Whose::Client(client) => {
                        sent_by(&mut engine, &peers[*client]);
                        expected[*client].extend(reply(number, *length));
                        stream.extend(reply(number, *length));
                    }
                    Whose::Nobody => {
                        sent(&mut engine, Owner::Tombstone);
                        stream.extend(reply(number, *length));
                    }
                    Whose::Select => {
                        sent(&mut engine, Owner::Select);
                        stream.extend_from_slice(b"+OK\r\n");
                    }
                }
                if number == leaves_after {
                    leaves_at = stream.len();
                }
            }
            let mut at = 0;
            for piece in stream.chunks(chunk) {
                engine.begin_turn();
                prop_assert_eq!(engine.link_input(LINK, piece), Ok(()));
                engine.end_turn();
                at += piece.len();
                if at >= leaves_at {
                    leaves_at = usize::MAX;
                    engine.remove_client(peers[2].index, Disconnect::Client);
                }
            }
            let link = &engine.links[LINK];
            prop_assert!(link.due.is_empty() && link.due_bytes == 0 && link.partial.is_empty());
            for (peer, expected) in peers.iter_mut().zip(&expected).take(2) {
                let got = peer.read_all(&mut engine, expected.len()).await;
                prop_assert!(got == *expected, "{} bytes for {}", got.len(), expected.len());
                prop_assert!(engine.clients[peer.index].slots.is_empty());
            }
            Ok(())
        })?;
    }
}

#[test]
fn what_was_not_asked_for_closes_the_link() {
    let fed = |owners: &[Owner], bytes: &[u8]| {
        in_runtime(async {
            let mut engine = engine(limits());
            for owner in owners {
                sent(&mut engine, *owner);
            }
            engine.link_input(LINK, bytes)
        })
    };
    let one = [Owner::Tombstone];
    assert_eq!(fed(&one, b"+OK\r\n"), Ok(()));
    assert_eq!(fed(&one, b"+OK\r\n+OK\r\n"), Err(LinkClose::ExtraReply));
    assert_eq!(fed(&[], b"+"), Err(LinkClose::ExtraReply));
    assert_eq!(
        fed(&one, b">2\r\n+invalidate\r\n+x\r\n"),
        Err(LinkClose::ExtraReply)
    );
    assert_eq!(fed(&one, b">2\r\n+inv"), Err(LinkClose::ExtraReply));
    assert_eq!(fed(&one, b"hello\r\n"), Err(LinkClose::BadReply));
    assert_eq!(fed(&one, b"$99999999999\r\n"), Err(LinkClose::BadReply));
    assert_eq!(
        fed(&[Owner::Select], b"-ERR DB index is out of range\r\n"),
        Err(LinkClose::SelectFailed)
    );
    assert_eq!(
        fed(&[Owner::Select], b"+QUEUED\r\n"),
        Err(LinkClose::SelectFailed)
    );
}

#[test]
fn a_reply_to_a_request_that_is_not_out_yet_closes_the_link() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        sent_by(&mut engine, &peer);
        sent_by(&mut engine, &peer);
        // The first request is out, of the second one a byte is missing.
        let Engine { links, spares, .. } = &mut engine;
        links[LINK].out.push(b"\n", spares);
        links[LINK].cells.link_opened(Wire::Resp2);
        assert_eq!(engine.link_input(LINK, b"+mine\r\n"), Ok(()));
        assert_eq!(engine.link_input(LINK, b"+whose\r\n"), Err(LinkClose::ExtraReply));
        engine.link_closed(LINK, LinkClose::ExtraReply);
        let got = String::from_utf8(peer.read_all(&mut engine, 7).await).unwrap();
        assert!(
            got.starts_with("+mine\r\n-TRYAGAIN ") && got.ends_with("it has not run\r\n"),
            "{got}"
        );
    });
}

#[test]
fn a_lost_link_says_of_every_request_whether_it_may_have_run() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        for _ in 0..4 {
            sent_by(&mut engine, &peer);
        }
        // Twenty bytes each: the last one and a part of the third are still here.
        let Engine { links, spares, .. } = &mut engine;
        links[LINK].out.push(&[0; 21], spares);
        engine.links[LINK].cells.link_opened(Wire::Resp2);
        engine.link_closed(LINK, LinkClose::Eof);
        let got = String::from_utf8(peer.read_all(&mut engine, 4).await).unwrap();
        let words: Vec<&str> = got.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["-UNCERTAIN", "-UNCERTAIN", "-TRYAGAIN", "-TRYAGAIN"]);
        let link = &engine.links[LINK];
        assert_eq!((link.due.len(), link.due_bytes, link.out.len()), (0, 0, 0));
    });
}

#[test]
fn a_reply_cut_in_its_middle_closes_its_client_and_nobody_else() {
    in_runtime(async {
        let mut engine = engine(limits());
        let (cut, mut other) = (connect(&mut engine).await, connect(&mut engine).await);
        sent_by(&mut engine, &cut);
        sent_by(&mut engine, &other);
        sent_by(&mut engine, &cut);
        engine.links[LINK].cells.link_opened(Wire::Resp2);
        let whole = reply(1, 100_000);
        assert_eq!(engine.link_input(LINK, &whole[..90_000]), Ok(()));
        engine.link_closed(LINK, LinkClose::Eof);
        assert_eq!(engine.clients[cut.index].closed, Some(Disconnect::PartialReply));
        let got = String::from_utf8(other.read_all(&mut engine, 10).await).unwrap();
        assert!(got.starts_with("-UNCERTAIN "), "{got}");
    });
}

#[test]
fn a_reply_that_comes_after_its_deadline_is_eaten() {
    in_runtime(async {
        let mut engine = engine(limits());
        let mut peer = connect(&mut engine).await;
        sent_by(&mut engine, &peer);
        let now = engine.now;
        let link = &mut engine.links[LINK];
        link.batches.push_back(Batch { end: 1, at: now });
        engine.now += 1_999_000;
        engine.link_deadlines(LINK);
        assert_eq!(engine.links[LINK].state, State::Ready, "a moment too early");
        engine.now += 1000;
        engine.link_deadlines(LINK);
        assert_eq!(engine.links[LINK].state, State::Silent);
        let got = String::from_utf8(peer.read_all(&mut engine, 10).await).unwrap();
        assert!(got.starts_with("-UNCERTAIN "), "{got}");
        sent_by(&mut engine, &peer);
        assert_eq!(engine.link_input(LINK, b"+late\r\n+right\r\n"), Ok(()));
        assert_eq!(engine.links[LINK].state, State::Ready);
        assert_eq!(peer.read_all(&mut engine, 8).await, b"+right\r\n");
    });
}

#[test]
fn the_parts_of_one_gather_that_are_being_read_count_together() {
    in_runtime(async {
        let mut limits = limits();
        limits.output_hard = 150_000;
        let mut engine = engine(limits);
        let mut peer = connect(&mut engine).await;
        engine.client_input(peer.index, b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n");
        let mut asked = Vec::new();
        for (index, link) in engine.links.iter_mut().enumerate() {
            while let Some(entry) = link.backlog.pop() {
                link.due_bytes += entry.bytes as usize;
                link.due.push_back(entry);
                asked.push(index);
            }
        }
        asked.dedup();
        let [one, other] = asked[..] else {
            panic!("{asked:?}: two nodes are asked");
        };
        let whole = [
            b"*1\r\n$100000\r\n".to_vec(),
            vec![b'k'; 100_000],
            b"\r\n".to_vec(),
        ]
        .concat();
        let (start, rest) = whole.split_at(80_000);
        assert_eq!(engine.link_input(one, start), Ok(()));
        assert_eq!(engine.links[one].partial.len(), 80_000);
        assert_eq!(engine.link_input(other, start), Ok(()));
        assert_eq!(engine.metrics.limits[Limit::ReplyBytes].load(), 1);
        assert_eq!(engine.links[other].partial.len(), 0, "nobody will get it");
        for link in [one, other] {
            assert_eq!(engine.link_input(link, rest), Ok(()));
            assert_eq!(engine.links[link].partial.len(), 0);
            assert_eq!(engine.link_input(link, &b"*0\r\n".repeat(3)), Ok(()));
        }
        let got = String::from_utf8(peer.read_all(&mut engine, 10).await).unwrap();
        assert!(got.starts_with("-ERR the reply is larger"), "{got}");
        assert_eq!(engine.metrics.limits[Limit::ReplyBytes].load(), 1);
        assert!(engine.gathers.is_empty() && engine.clients[peer.index].gathered == 0);
    });
}
