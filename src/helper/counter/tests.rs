//! Each command from its words to what is sent and what is answered.

use crate::helper::testing::{Said, commands, run, topology, words, worked};
use crate::helper::{Block, Work};
use crate::ids::ShardId;
use crate::resp::Protocol;

fn refused(line: &str) -> String {
    worked(&words(line), &topology(8, 4), 0).map_or_else(|line| line, |_| "runs".to_owned())
}

fn ran(line: &str, protocol: Protocol, answer: impl FnMut(&crate::helper::Ask, &[String]) -> Said) -> String {
    match worked(&words(line), &topology(8, 4), 0) {
        Ok((Work::Program(program), _)) => run(program, protocol, answer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_increment_is_one_command_and_a_registration() {
    let topology = topology(8, 4);
    let (work, bytes) = worked(&words("COUNTER.INCR events {b}1 -5"), &topology, 0).unwrap();
    let Work::Block(Block {
        shard,
        frames,
        registers: Some(_),
    }) = work
    else {
        panic!("{work:?}")
    };
    assert_eq!((shard, frames), (topology.shard_of_key(b"b"), 2));
    assert_eq!(
        commands(&bytes),
        [
            "HINCRBY __preshard__:cp:events {b}1 -5",
            "SADD __preshard__:cn events"
        ]
    );
    let (work, _) = worked(&words("COUNTER.INCR events {b}1"), &topology, 2).unwrap();
    assert!(
        matches!(
            work,
            Work::Block(Block {
                shard: ShardId(9),
                ..
            })
        ),
        "{work:?}"
    );
    let long = vec![b'm'; 65_535];
    let (work, _) = worked(&[b"COUNTER.INCR", b"c", &long], &topology, 0).unwrap();
    let key = [b"c:", long.as_slice()].concat();
    assert!(matches!(work, Work::Block(Block { shard, .. }) if shard == topology.shard_of_key(&key)));
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_sent() {
    let integer = "ERR value is not an integer or out of range";
    for (line, said) in [
        (
            "COUNTER.INCR c",
            "ERR wrong number of arguments for 'counter.incr' command",
        ),
        (
            "COUNTER.INCR c m 1 2",
            "ERR wrong number of arguments for 'counter.incr' command",
        ),
        ("COUNTER.INCR c m one", integer),
        ("COUNTER.INCR c m 9223372036854775808", integer),
        ("COUNTER.INCR  m", "ERR the name of a counter has 1 to 255 bytes"),
        ("COUNTER.INCR c ", "ERR a member has 1 to 65535 bytes"),
        (
            "COUNTER.MINCR c a 1 b",
            "ERR wrong number of arguments for 'counter.mincr' command",
        ),
        ("COUNTER.MINCR c a 1 b x", integer),
        ("COUNTER.MGET c a ", "ERR a member has 1 to 65535 bytes"),
        (
            "COUNTER.GET c",
            "ERR wrong number of arguments for 'counter.get' command",
        ),
        (
            "COUNTER.GET c m m",
            "ERR wrong number of arguments for 'counter.get' command",
        ),
    ] {
        assert_eq!(refused(line), said, "{line}");
    }
}

#[test]
fn many_increments_are_answered_in_the_order_asked() {
    let mut number = 0;
    let reply = ran("COUNTER.MINCR c a 1 b 2 a 3", Protocol::Resp2, |_, sent| {
        number += 1;
        match sent[0].as_str() {
            "HINCRBY __preshard__:cp:c b 2" => Said::Uncertain("UNCERTAIN shard 1: gone"),
            _ => Said::Reply(format!(":{number}\r\n").into_bytes()),
        }
    });
    assert_eq!(reply, "*3\r\n:1\r\n-UNCERTAIN shard 1: gone\r\n:3\r\n");
}

#[test]
fn a_count_is_the_sum_of_three_hashes_at_one_moment() {
    for (protocol, none) in [(Protocol::Resp2, "$-1\r\n"), (Protocol::Resp3, "_\r\n")] {
        let reply = ran("COUNTER.GET c a", protocol, |_, sent| {
            assert_eq!(
                sent,
                [
                    "MULTI",
                    "HMGET __preshard__:cp:c a",
                    "HMGET __preshard__:cd:c a",
                    "HMGET __preshard__:cl:c a",
                    "EXEC"
                ]
            );
            let reply = format!("*3\r\n*1\r\n$19\r\n9007199254740993000\r\n*1\r\n{none}*1\r\n$2\r\n-7\r\n");
            Said::Reply(reply.into_bytes())
        });
        assert_eq!(reply, ":9007199254740992993\r\n");
    }
    let reply = ran("COUNTER.MGET c a b", Protocol::Resp3, |ask, _| {
        if ask.part == 0 {
            Said::NotRun("CLUSTERDOWN shard 1: down")
        } else {
            Said::Reply(b"*3\r\n*1\r\n_\r\n*1\r\n_\r\n*1\r\n_\r\n".to_vec())
        }
    });
    assert!(
        reply == "*2\r\n-CLUSTERDOWN shard 1: down\r\n:0\r\n"
            || reply == "*2\r\n:0\r\n-CLUSTERDOWN shard 1: down\r\n"
    );
}
