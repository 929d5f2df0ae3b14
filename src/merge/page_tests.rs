//! Pages of iterations: which cursor the node is asked with, and which one the client gets.

use super::page::Page;
use super::*;
use crate::ids::{NodeIndex, ShardId};
use crate::resp::{Args, RequestLimits, RequestScanner, Scan};
use crate::topology::{Node, NodeAccess, Topology};

const SHARD: ShardId = ShardId(5);

fn topology() -> Topology {
    let node = |number: u16| Node {
        name: format!("node-{number}"),
        address: format!("127.0.0.1:{}", 7000 + number).parse().unwrap(),
    };
    Topology::seed("test".to_owned(), 8, 2, vec![node(1), node(2), node(3)]).unwrap()
}

fn on(node: u16) -> Topology {
    let mut topology = topology();
    topology.placements[SHARD.index()].node = NodeIndex(node);
    topology
}

fn run(mut topology: Topology, run_id: &str) -> Topology {
    let node = topology.placement(SHARD).node;
    let access = NodeAccess {
        user: "ps-g1".to_owned(),
        run_id: run_id.to_owned(),
    };
    topology.access.insert(node, access);
    topology
}

/// Asks for a page: it, and the cursor that the node gets.
fn ask(cursor: &str, topology: &Topology) -> (Page, String) {
    let mut request = Vec::new();
    resp::write_array_header(&mut request, 5);
    for word in ["HSCAN", "key", cursor, "COUNT", "7"] {
        resp::write_bulk(&mut request, word.as_bytes());
    }
    let mut ranges = Vec::new();
    let scan = RequestScanner::default().scan(&request, &mut ranges, &RequestLimits::default());
    assert_eq!(scan, Scan::Frame { end: request.len() });
    let mut asked = Vec::new();
    let page = Page::ask(
        &Args::new(&request, &ranges),
        2,
        (SHARD, false),
        topology,
        &mut asked,
    );
    let text = |raw: &[u8]| String::from_utf8(bulk(raw).unwrap().to_vec()).unwrap();
    let words: Vec<String> = elements(&asked).unwrap().map(text).collect();
    assert_eq!(
        (words[1].as_str(), &words[3..]),
        ("key", &["COUNT".to_owned(), "7".to_owned()][..])
    );
    (page, words[2].clone())
}

fn page(cursor: &str) -> Vec<u8> {
    let length = cursor.len();
    format!("*2\r\n${length}\r\n{cursor}\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n").into_bytes()
}

/// The cursor that the client gets for the node's.
fn told(mut asked: Page, cursor: &str, topology: &Topology) -> String {
    asked.part(Outcome::Reply(&page(cursor)), topology);
    let (reply, from_node) = asked.reply();
    assert!(from_node);
    let mut pair = elements(reply).unwrap();
    let cursor = bulk(pair.next().unwrap()).unwrap().to_vec();
    assert_eq!(pair.rest(), &b"*2\r\n$1\r\nf\r\n$1\r\nv\r\n"[..]);
    assert!(pair.count_left() == 1);
    String::from_utf8(cursor).unwrap()
}

fn parsed(cursor: &str) -> u64 {
    let cursor = cursor.parse().unwrap();
    assert!(cursor < 1 << 53, "a double would round {cursor}");
    cursor
}

#[test]
fn a_cursor_comes_back_to_its_node_as_the_node_has_made_it() {
    let topology = run(on(1), "a");
    for cursor in ["1", "77", "4096", "68719476735"] {
        let (first, asked) = ask("0", &topology);
        assert_eq!(asked, "0");
        let next = told(first, cursor, &topology);
        assert_ne!(parsed(&next), 0);
        assert_eq!(ask(&next, &topology).1, cursor);
        assert_eq!(
            told(ask(&next, &topology).0, "0", &topology),
            "0",
            "the end is the end"
        );
    }
}

#[test]
fn an_iteration_begins_again_where_its_shard_lives_elsewhere_or_in_another_process() {
    let before = run(on(1), "a");
    let next = told(ask("0", &before).0, "77", &before);
    for after in [run(on(2), "b"), run(on(1), "b"), run(on(0), "a")] {
        assert_eq!(ask(&next, &after).1, "0");
    }
    // Another proxy numbers its nodes in another way; there and back in the same process is the same table.
    let mut renumbered = before.clone();
    renumbered.nodes.swap(1, 2);
    renumbered.access = [(NodeIndex(2), before.access[&NodeIndex(1)].clone())].into();
    renumbered.placements[SHARD.index()].node = NodeIndex(2);
    assert_eq!(ask(&next, &renumbered).1, "77");
    // Nodes without users of preshard.
    let next = told(ask("0", &on(1)).0, "77", &on(1));
    assert_eq!(ask(&next, &on(2)).1, "0");
    assert_eq!(ask(&next, &on(1)).1, "77");
}

#[test]
fn what_is_asked_in_the_middle_of_a_move_goes_on_from_the_start() {
    let (before, after) = (run(on(1), "a"), run(on(0), "b"));
    let next = told(ask("0", &before).0, "77", &before);
    for end in ["0", "99"] {
        let again = told(ask(&next, &before).0, end, &after);
        assert_ne!(parsed(&again), 0, "there is more");
        assert_eq!(ask(&again, &after).1, "0");
    }
    // From the start, and all at once: whoever it was has told everything.
    assert_eq!(told(ask("0", &before).0, "0", &after), "0");
    let again = told(ask("0", &before).0, "5", &after);
    assert_eq!(ask(&again, &after).1, "0");
}

#[test]
fn what_has_no_mark_is_the_nodes_affair() {
    let topology = on(1);
    for cursor in [
        "77",
        "68719476735",
        "9007199254740992",
        "18446744073709551615",
        "x",
        "-1",
        "+5",
        "",
    ] {
        assert_eq!(ask(cursor, &topology).1, cursor);
    }
    let next = told(ask("77", &topology).0, "78", &topology);
    assert_eq!(ask(&next, &topology).1, "78");
}

#[test]
fn errors_pass_and_a_cursor_without_room_for_a_mark_is_one() {
    let topology = on(1);
    let shown = |outcome: Outcome<'_>| {
        let mut page = ask("0", &topology).0;
        page.part(outcome, &topology);
        let (reply, from_node) = page.reply();
        (String::from_utf8(reply.to_vec()).unwrap(), from_node)
    };
    let wrong = "-WRONGTYPE Operation\r\n";
    assert_eq!(shown(Outcome::Reply(wrong.as_bytes())), (wrong.to_owned(), true));
    assert_eq!(
        shown(Outcome::NotRun("CLUSTERDOWN x")),
        ("-CLUSTERDOWN x\r\n".to_owned(), false)
    );
    assert_eq!(
        shown(Outcome::Uncertain("UNCERTAIN x")),
        ("-UNCERTAIN x\r\n".to_owned(), false)
    );
    let far = shown(Outcome::Reply(&page("68719476736")));
    assert_eq!(
        far,
        (
            "-ERR preshard: a node's cursor is beyond 2^36\r\n".to_owned(),
            true
        )
    );
}

#[test]
fn keys_of_helpers_are_left_out_of_pages_of_keys() {
    let topology = topology();
    let frame = b"*2\r\n$4\r\nSCAN\r\n$1\r\n0\r\n";
    let mut ranges = Vec::new();
    let scan = RequestScanner::default().scan(frame, &mut ranges, &RequestLimits::default());
    assert_eq!(scan, Scan::Frame { end: frame.len() });
    let (mut asked, pinned) = (Vec::new(), (ShardId(8), true));
    let mut page = Page::ask(&Args::new(frame, &ranges), 1, pinned, &topology, &mut asked);
    assert_eq!(asked, frame);
    let reply = b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$15\r\n__preshard__:x:y\r\n";
    let reply = String::from_utf8(reply.to_vec()).unwrap().replace("$15", "$16");
    page.part(Outcome::Reply(reply.as_bytes()), &topology);
    assert_eq!(page.reply().0, b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n");
}
