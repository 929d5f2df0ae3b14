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
            let keys = "3 __preshard__:cp:c __preshard__:cd:c __preshard__:cl:c a";
            assert!(
                sent[0].starts_with("EVAL ") && sent[0].ends_with(keys),
                "{sent:?}"
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

fn said(reply: &str) -> Said {
    Said::Reply(reply.as_bytes().to_vec())
}

/// A node of which one shard has a batch.
fn node_with(shard: u16, batch: &'static str) -> impl FnMut(&crate::helper::Ask, &[String]) -> Said {
    move |ask, sent| match sent[0].split(' ').next() {
        Some("EXISTS") => said(if ask.shard == ShardId(shard) {
            ":1\r\n"
        } else {
            ":0\r\n"
        }),
        Some("EVAL") if sent[0].contains("HLEN") && !sent[0].contains("HSCAN") => {
            said("*3\r\n:2\r\n:0\r\n:0\r\n")
        }
        Some("EVAL") if sent[0].contains("HSCAN") => said(batch),
        Some("EVAL") => said(":1\r\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_is_flat_or_a_map_and_has_no_zeros() {
    let batch = "*4\r\n$16\r\n1795374756250212\r\n$1\r\n2\r\n$1\r\n7\r\n*4\r\n$1\r\nm\r\n$2\r\n-3\r\n$1\r\nz\r\n$1\r\n0\r\n";
    let id = "$18\r\n5-1795374756250212\r\n";
    assert_eq!(
        ran("COUNTER.TAKE c", Protocol::Resp2, node_with(5, batch)),
        format!("*1\r\n*4\r\n{id}:2\r\n*2\r\n$1\r\nm\r\n:-3\r\n$1\r\n7\r\n")
    );
    assert_eq!(
        ran("COUNTER.TAKE c", Protocol::Resp3, node_with(5, batch)),
        format!(
            "*1\r\n%4\r\n$2\r\nid\r\n{id}$7\r\nattempt\r\n:2\r\n$7\r\nentries\r\n%1\r\n$1\r\nm\r\n:-3\r\n$4\r\nprev\r\n$1\r\n7\r\n"
        )
    );
    let zeros = "*4\r\n$1\r\n9\r\n$1\r\n1\r\n$1\r\n0\r\n*2\r\n$1\r\nz\r\n$1\r\n0\r\n";
    assert_eq!(
        ran("COUNTER.TAKE c", Protocol::Resp2, node_with(5, zeros)),
        "*0\r\n"
    );
    assert_eq!(
        ran("COUNTER.TAKE c", Protocol::Resp3, node_with(5, "_\r\n")),
        "*0\r\n"
    );
}

#[test]
fn nothing_found_is_said_only_if_all_were_asked() {
    let some_down = |found: bool| {
        ran("COUNTER.TAKE c", Protocol::Resp2, move |ask, sent| {
            let batch = "*4\r\n$1\r\n9\r\n$1\r\n1\r\n$1\r\n0\r\n*2\r\n$1\r\nm\r\n$1\r\n1\r\n";
            match ask.shard {
                ShardId(2 | 3) => Said::NotRun("TRYAGAIN it is on its way to another node"),
                _ if found => node_with(0, batch)(ask, sent),
                _ => said(":0\r\n"),
            }
        })
    };
    assert_eq!(
        some_down(false),
        "-TRYAGAIN preshard: 2 shards not checked; nothing is due in the others\r\n"
    );
    assert_eq!(
        some_down(true),
        "*1\r\n*4\r\n$3\r\n0-9\r\n:1\r\n*2\r\n$1\r\nm\r\n:1\r\n$1\r\n0\r\n"
    );
}

#[test]
fn a_take_stops_when_it_has_enough() {
    let mut scripts = 0;
    let reply = ran("COUNTER.TAKE c COUNT 3", Protocol::Resp2, |_, sent| {
        let batch =
            "*4\r\n$1\r\n9\r\n$1\r\n1\r\n$1\r\n0\r\n*4\r\n$1\r\nm\r\n$1\r\n1\r\n$1\r\nn\r\n$1\r\n1\r\n";
        match sent[0].split(' ').next() {
            Some("EXISTS") => said(":1\r\n"),
            _ if !sent[0].contains("HSCAN") => said("*3\r\n:2\r\n:0\r\n:0\r\n"),
            _ => {
                scripts += 1;
                said(batch)
            }
        }
    });
    assert!(reply.starts_with("*2\r\n"), "{reply}");
    assert_eq!(scripts, 2, "two batches of two are enough for three");
}

#[test]
fn ids_are_read_exactly() {
    let invalid = "ERR invalid batch id";
    for id in [
        "",
        "1",
        "-",
        "1-",
        "-1",
        "a-1",
        "1-a",
        "01-1",
        "1-01",
        "1--1",
        "+1-1",
        "1-12345678901234567",
        "70000-1",
    ] {
        let line = worked(&[b"COUNTER.ACK", b"c", id.as_bytes()], &topology(8, 4), 0).unwrap_err();
        assert_eq!(line, invalid, "{id}");
    }
    let elsewhere = "ERR invalid batch id: its shard is not one of the selected database";
    for (id, db) in [("8-1", 0), ("3-1", 1), ("9-1", 1)] {
        let line = worked(&[b"COUNTER.ACK", b"c", id.as_bytes()], &topology(8, 4), db).unwrap_err();
        assert_eq!(line, elsewhere, "{id} in {db}");
    }
    let mut asked = Vec::new();
    let reply = ran("COUNTER.LEASE c 0 3-7 4-8", Protocol::Resp2, |ask, sent| {
        asked.push((
            ask.shard.0,
            sent[0].rsplit(' ').take(2).map(str::to_owned).collect::<Vec<_>>(),
        ));
        said(":1\r\n")
    });
    assert_eq!(reply, ":2\r\n");
    asked.sort();
    assert_eq!(
        asked,
        [
            (3, vec!["0".to_owned(), "7".to_owned()]),
            (4, vec!["0".to_owned(), "8".to_owned()])
        ]
    );
}

#[test]
fn options_have_bounds() {
    for (line, said) in [
        ("COUNTER.TAKE c COUNT 0", "ERR COUNT must be between 1 and 10000"),
        (
            "COUNTER.TAKE c COUNT 10001",
            "ERR COUNT must be between 1 and 10000",
        ),
        (
            "COUNTER.TAKE c COUNT x",
            "ERR value is not an integer or out of range",
        ),
        ("COUNTER.TAKE c COUNT", "ERR syntax error"),
        (
            "COUNTER.TAKE c lease 0",
            "ERR LEASE must be between 1 and 3600000",
        ),
        (
            "COUNTER.TAKE c EVERY -1",
            "ERR EVERY must be between 0 and 86400000",
        ),
        ("COUNTER.TAKE c BLOCK 1", "ERR syntax error"),
        ("COUNTER.TAKE c noack every 5 LEASE 3600000 count 10000", "runs"),
        (
            "COUNTER.LEASE c 3600001 1-1",
            "ERR ms must be between 0 and 3600000",
        ),
        (
            "COUNTER.LEASE c 5",
            "ERR wrong number of arguments for 'counter.lease' command",
        ),
        (
            "COUNTER.PENDING c d",
            "ERR wrong number of arguments for 'counter.pending' command",
        ),
    ] {
        assert_eq!(refused(line), said, "{line}");
    }
}

#[test]
fn what_is_pending_is_added_up_over_shards_or_not_told() {
    let node = |fails: bool| {
        move |ask: &crate::helper::Ask, sent: &[String]| match (ask.shard.0, sent[0].as_str()) {
            (6, _) if fails => Said::NotRun("CLUSTERDOWN x"),
            (0 | 6, "SMEMBERS __preshard__:cn") => said("*1\r\n$1\r\nc\r\n"),
            (_, "SMEMBERS __preshard__:cn") => said("*0\r\n"),
            (6, _) => {
                said("*5\r\n:3\r\n:1\r\n:2\r\n*2\r\n$4\r\n5000\r\n$1\r\n4\r\n*2\r\n$1\r\n9\r\n$1\r\n0\r\n")
            }
            _ => said("*5\r\n:1\r\n:0\r\n:0\r\n*2\r\n$-1\r\n$-1\r\n*2\r\n$1\r\n9\r\n$1\r\n0\r\n"),
        }
    };
    let of_two = "%6\r\n$7\r\nmembers\r\n:5\r\n$6\r\nleased\r\n:2\r\n$7\r\nbatches\r\n:1\r\n$6\r\nshards\r\n:2\r\n\
                  $6\r\nlag-ms\r\n:4000\r\n$11\r\nmax-attempt\r\n:4\r\n";
    assert_eq!(
        ran("COUNTER.PENDING", Protocol::Resp3, node(false)),
        format!("%1\r\n$1\r\nc\r\n{of_two}")
    );
    let flat = of_two.replace("%6", "*12");
    assert_eq!(
        ran("COUNTER.PENDING", Protocol::Resp2, node(false)),
        format!("*2\r\n$1\r\nc\r\n{flat}")
    );
    assert_eq!(
        ran("COUNTER.PENDING c", Protocol::Resp3, node(true)),
        "-CLUSTERDOWN x\r\n"
    );
}
