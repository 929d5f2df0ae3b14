//! `COUNTER.*` on real nodes: what is counted is delivered, and once; what counters keep is hidden from clients.
//!
//! `model` runs every command by chance against a model of what has been counted; `moves` does so while shards move.

mod model;
mod moves;

use crate::faults::FAULT_EVENTS;
use crate::harness::relay::{Fault, Relay};
use crate::harness::{Client, Node, PATIENCE, Reply, Setup, key_in, shard_of, small, wait_for};

/// A batch as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    id: String,
    attempt: i64,
    entries: Vec<(String, i64)>,
    prev: String,
}

impl Batch {
    fn shard(&self) -> u16 {
        self.id.split_once('-').unwrap().0.parse().unwrap()
    }

    fn seq(&self) -> u64 {
        self.id.split_once('-').unwrap().1.parse().unwrap()
    }

    fn sum(&self) -> i64 {
        self.entries.iter().map(|(_, delta)| delta).sum()
    }
}

/// The batches of a reply, in either protocol version.
fn batches(reply: &Reply) -> Vec<Batch> {
    let field = |batch: &Reply, place: usize, name: &str| match batch {
        Reply::Map(_) => batch.field(name).unwrap(),
        _ => batch.items()[place].clone(),
    };
    let one = |batch: &Reply| {
        let entries = match field(batch, 2, "entries") {
            Reply::Map(pairs) => pairs,
            flat => {
                let flat = flat.items();
                flat.chunks(2)
                    .map(|pair| (pair[0].clone(), pair[1].clone()))
                    .collect()
            }
        };
        Batch {
            id: field(batch, 0, "id").text(),
            attempt: field(batch, 1, "attempt").int(),
            entries: entries
                .iter()
                .map(|(member, delta)| (member.text(), delta.int()))
                .collect(),
            prev: field(batch, 3, "prev").text(),
        }
    };
    assert!(matches!(reply, Reply::Array(_)), "{reply:?}");
    reply.items().iter().map(one).collect()
}

fn take(client: &mut Client, words: &str) -> Vec<Batch> {
    batches(&client.ask(&format!("COUNTER.TAKE {words}")))
}

#[test]
fn what_is_counted_is_taken_and_confirmed_in_both_protocol_versions() {
    let (_nodes, proxy) = small();
    for (mut client, counter) in [(proxy.client(), "two"), (proxy.client3(), "three")] {
        let call = |client: &mut Client, words: &str| client.ask(&words.replace("$c", counter));
        assert_eq!(call(&mut client, "COUNTER.INCR $c a").int(), 1);
        assert_eq!(call(&mut client, "COUNTER.INCR $c a 41").int(), 42);
        assert_eq!(call(&mut client, "COUNTER.INCR $c b -7").int(), -7);
        let many = call(&mut client, "COUNTER.MINCR $c a 1 c 5 a 1 zero 0").items();
        assert_eq!(many.iter().map(Reply::int).collect::<Vec<_>>(), [43, 5, 44, 0]);
        assert_eq!(call(&mut client, "COUNTER.GET $c a").int(), 44);
        assert_eq!(call(&mut client, "COUNTER.GET $c nobody").int(), 0);
        let counts = call(&mut client, "COUNTER.MGET $c a nobody b").items();
        assert_eq!(counts.iter().map(Reply::int).collect::<Vec<_>>(), [44, 0, -7]);
        let pending = call(&mut client, "COUNTER.PENDING $c");
        let field = |pending: &Reply, place: usize, name: &str| match pending {
            Reply::Map(_) => pending.field(name).unwrap(),
            _ => pending.items()[place * 2 + 1].clone(),
        };
        assert_eq!(field(&pending, 0, "members").int(), 4);
        assert_eq!(field(&pending, 4, "lag-ms"), Reply::Null);

        let taken = take(&mut client, counter);
        let sum: i64 = taken.iter().map(Batch::sum).sum();
        assert_eq!(sum, 44 - 7 + 5);
        assert!(taken.iter().all(|batch| batch.attempt == 1 && batch.prev == "0"));
        assert!(
            taken
                .iter()
                .all(|batch| batch.entries.iter().all(|(_, delta)| *delta != 0))
        );
        for batch in &taken {
            for (member, _) in &batch.entries {
                assert_eq!(batch.shard(), shard_of(&format!("{counter}:{member}"), 8));
            }
        }
        assert_eq!(take(&mut client, counter), [], "leased");
        assert_eq!(call(&mut client, "COUNTER.GET $c a").int(), 44, "not confirmed");
        assert_eq!(call(&mut client, "COUNTER.INCR $c a").int(), 1, "a new cycle");
        assert_eq!(call(&mut client, "COUNTER.GET $c a").int(), 45);
        let pending = call(&mut client, "COUNTER.PENDING $c");
        assert_eq!(field(&pending, 0, "members").int(), 1);
        assert_eq!(field(&pending, 2, "batches").int(), taken.len() as i64);
        assert_eq!(field(&pending, 5, "max-attempt").int(), 1);
        assert!(
            matches!(field(&pending, 4, "lag-ms"), Reply::Int(0..60_000)),
            "{pending:?}"
        );

        give_back_and_confirm(&mut client, counter, &taken);
        assert_eq!(call(&mut client, "COUNTER.GET $c a").int(), 1);
        assert_eq!(call(&mut client, "COUNTER.DEL $c a nobody").int(), 1);
        assert_eq!(call(&mut client, "COUNTER.GET $c a").int(), 0);
        call(&mut client, "COUNTER.INCR $c b");
        assert!(call(&mut client, "COUNTER.DEL $c").int() >= 1);
        assert_eq!(call(&mut client, "COUNTER.DEL $c").int(), 0);
        assert_eq!(
            call(&mut client, "COUNTER.PENDING"),
            if counter == "two" {
                Reply::Array(Vec::new())
            } else {
                Reply::Map(Vec::new())
            }
        );
    }
}

/// Gives batches back, takes them again, the same, and confirms them once.
fn give_back_and_confirm(client: &mut Client, counter: &str, taken: &[Batch]) {
    let ids: Vec<&str> = taken.iter().map(|batch| batch.id.as_str()).collect();
    let ids = ids.join(" ");
    let count = taken.len() as i64;
    assert_eq!(
        client.ask(&format!("COUNTER.LEASE {counter} 0 {ids}")).int(),
        count
    );
    let mut again = take(client, counter);
    again.retain(|batch| batch.attempt == 2);
    again.iter_mut().for_each(|batch| batch.attempt = 1);
    let mut expected = taken.to_vec();
    again.sort_by_key(Batch::shard);
    expected.sort_by_key(Batch::shard);
    assert_eq!(again, expected, "the same batches");
    assert_eq!(client.ask(&format!("COUNTER.ACK {counter} {ids}")).int(), count);
    assert_eq!(client.ask(&format!("COUNTER.ACK {counter} {ids}")).int(), 0);
    assert_eq!(client.ask(&format!("COUNTER.LEASE {counter} 5 {ids}")).int(), 0);
}

#[test]
fn batches_have_the_shape_of_their_protocol_version() {
    let (_nodes, proxy) = small();
    for (mut client, shape) in [
        (
            proxy.client(),
            "*1\r\n*4\r\n$18\r\nID\r\n:1\r\n*2\r\n$1\r\nm\r\n:3\r\n$1\r\n0\r\n",
        ),
        (
            proxy.client3(),
            "*1\r\n%4\r\n$2\r\nid\r\n$18\r\nID\r\n$7\r\nattempt\r\n:1\r\n$7\r\nentries\r\n%1\r\n$1\r\nm\r\n:3\r\n\
             $4\r\nprev\r\n$1\r\n0\r\n",
        ),
    ] {
        client.ask("COUNTER.INCR shaped m 3").int();
        client.command(&["COUNTER.TAKE", "shaped"]);
        let bytes = String::from_utf8(client.reply_bytes()).unwrap();
        let at = bytes.find("$18\r\n").unwrap() + 5;
        let id = &bytes[at..at + 18];
        assert_eq!(bytes, shape.replace("ID", id));
        client.ask("COUNTER.DEL shaped").int();
    }
}

#[test]
fn a_pinned_database_has_counters_of_its_own_in_its_one_shard() {
    let (_nodes, proxy) = small();
    let (mut client, mut other) = (proxy.client(), proxy.client());
    client.ask("SELECT 2").expect_ok();
    for member in 0..20 {
        client.ask(&format!("COUNTER.INCR c m{member}")).int();
    }
    assert_eq!(other.ask("COUNTER.GET c m1").int(), 0);
    assert_eq!(other.ask("COUNTER.TAKE c"), Reply::Array(Vec::new()));
    let taken = take(&mut client, "c");
    assert_eq!(
        (taken.len(), taken[0].entries.len(), taken[0].shard()),
        (1, 20, 9)
    );
    other
        .ask(&format!("COUNTER.ACK c {}", taken[0].id))
        .expect_error("ERR invalid batch id");
    other.ask("SELECT 1").expect_ok();
    other
        .ask(&format!("COUNTER.ACK c {}", taken[0].id))
        .expect_error("ERR invalid batch id");
    assert_eq!(client.ask(&format!("COUNTER.ACK c {}", taken[0].id)).int(), 1);
    assert_eq!(client.ask("DBSIZE").int(), 0);
    assert_eq!(client.ask("KEYS *"), Reply::Array(Vec::new()));
    assert_eq!(client.ask("RANDOMKEY"), Reply::Null);
    client.ask("SET mine 1").expect_ok();
    assert_eq!(client.ask("RANDOMKEY").text(), "mine");
    let page = client.ask("SCAN 0 COUNT 100").items();
    assert_eq!((page[0].text(), page[1].items().len()), ("0".to_owned(), 1));
    assert_eq!(client.ask("MULTI"), Reply::Simple("OK".to_owned()));
    assert_eq!(client.ask("DBSIZE"), Reply::Simple("QUEUED".to_owned()));
    assert!(client.ask("EXEC").items()[0].int() >= 1);
}

#[test]
fn a_batch_is_soft_in_size_bounded_in_number_and_waits_for_its_interval() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    for member in 0..3000 {
        client.command(&["COUNTER.INCR", "{c}", &format!("m{member}")]);
    }
    (0..3000).for_each(|_| assert_eq!(client.reply().int(), 1));
    let mut sum = 0;
    let mut rounds = 0;
    loop {
        let taken = take(&mut client, "{c} COUNT 500 EVERY 3600000");
        let Some(batch) = taken.first() else { break };
        assert_eq!(taken.len(), 1, "one shard");
        assert!(
            (1..=700).contains(&batch.entries.len()),
            "{}",
            batch.entries.len()
        );
        sum += batch.sum();
        rounds += 1;
        assert_eq!(client.ask(&format!("COUNTER.ACK {{c}} {}", batch.id)).int(), 1);
    }
    assert_eq!(sum, 3000);
    assert!((4..=8).contains(&rounds), "{rounds}");
    client.ask("COUNTER.INCR {c} late").int();
    assert_eq!(take(&mut client, "{c} EVERY 3600000"), [], "not so soon");
    let taken = take(&mut client, "{c} NOACK");
    assert_eq!(taken[0].entries, [("late".to_owned(), 1)]);
    assert_eq!(client.ask("COUNTER.GET {c} late").int(), 0, "gone without a word");
}

/// C8: deadlines and cycles that a clock has written which was an hour ahead, and numbers from the future.
#[test]
fn a_clock_that_was_put_back_stops_nothing_and_numbers_only_grow() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    let member = key_in(0, 8, "c:").split_off(2);
    let meta = "__preshard__:cm:c";
    let mut node = nodes[0].client_in(0);
    client.ask(&format!("COUNTER.INCR c {member}")).int();
    let first = take(&mut client, "c").remove(0);
    node.ask(&format!("HSET {meta} dl 9000000000000000")).int();
    let again = take(&mut client, "c").remove(0);
    assert_eq!(
        (&again.id, again.attempt),
        (&first.id, 2),
        "a deadline far away is none"
    );
    assert_eq!(client.ask(&format!("COUNTER.ACK c {}", first.id)).int(), 1);
    node.ask(&format!("HSET {meta} tk 9000000000000 seq 9000000000000000"))
        .int();
    client.ask(&format!("COUNTER.INCR c {member}")).int();
    let next = take(&mut client, "c EVERY 86400000").remove(0);
    assert_eq!(next.seq(), 9_000_000_000_000_001);
    assert_eq!(next.prev, "9000000000000000");
}

/// C7 and C11: nodes forget their scripts, everything is emptied; numbers go on growing.
#[test]
fn forgotten_scripts_and_an_emptied_keyspace_are_no_trouble() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    client.ask("COUNTER.INCR c {x}m").int();
    let first = take(&mut client, "c").remove(0);
    client.ask("SCRIPT FLUSH").expect_ok();
    assert_eq!(client.ask(&format!("COUNTER.LEASE c 0 {}", first.id)).int(), 1);
    client.ask("SCRIPT FLUSH").expect_ok();
    assert_eq!(take(&mut client, "c").len(), 1);
    client.ask("FLUSHALL").expect_ok();
    assert_eq!(client.ask(&format!("COUNTER.ACK c {}", first.id)).int(), 0);
    assert_eq!(take(&mut client, "c"), []);
    client.ask("COUNTER.INCR c {x}m").int();
    let next = take(&mut client, "c").remove(0);
    assert!(next.seq() > first.seq());
    assert_eq!((next.prev.as_str(), next.attempt), ("0", 1));
    assert_eq!(client.ask("DBSIZE").int(), 0);
}

/// What frees memory must not need any.
#[test]
fn a_full_node_takes_no_increment_and_is_drained() {
    let (nodes, proxy) = small();
    let mut client = proxy.client();
    for member in 0..100 {
        client.ask(&format!("COUNTER.INCR c m{member}")).int();
    }
    for node in &nodes {
        node.client().ask("CONFIG SET maxmemory 1").expect_ok();
    }
    client.ask("COUNTER.INCR c m1").expect_error("OOM");
    assert!(
        client.ask("COUNTER.MINCR c m1 1").items()[0]
            .error()
            .unwrap()
            .starts_with("OOM")
    );
    let taken = take(&mut client, "c LEASE 1");
    assert_eq!(taken.iter().map(Batch::sum).sum::<i64>(), 100);
    let again = wait_for("they come again", PATIENCE, || {
        let again = take(&mut client, "c");
        (!again.is_empty()).then_some(again)
    });
    for batch in taken {
        assert_eq!(client.ask(&format!("COUNTER.LEASE c 50 {}", batch.id)).int(), 1);
        assert_eq!(client.ask(&format!("COUNTER.ACK c {}", batch.id)).int(), 1);
    }
    assert!(!again.is_empty());
    assert_eq!(client.ask("COUNTER.GET c m1").int(), 0);
}

/// C6: the connection to a node ends between a request and its reply.
#[test]
fn an_increment_whose_reply_is_lost_is_uncertain_and_applied_at_most_once() {
    let nodes = [Node::start(), Node::start()];
    let relay = Relay::to(nodes[0].socket());
    let proxy = Setup::of(&[relay.address(), nodes[1].address()])
        .proxy("workers = 1")
        .announce(FAULT_EVENTS)
        .start();
    let mut client = proxy.client();
    let member = |number: u32| key_in(0, 8, &format!("c:{number}-")).split_off(2);
    client.ask(&format!("COUNTER.INCR c {}", member(0))).int();
    for (number, fault) in (1..).zip([Fault::Reset, Fault::CutReply(1), Fault::CutRequest]) {
        // The relay knows the request, and its reply, by the number.
        let (name, delta) = (member(number), 7_000_000 + i64::from(number));
        relay.arm(&delta.to_string(), fault.clone());
        let reply = client.ask(&format!("COUNTER.INCR c {name} {delta}"));
        let error = reply.error().unwrap_or_else(|| panic!("{fault:?}: {reply:?}"));
        assert!(
            error.starts_with("UNCERTAIN preshard: shard 0"),
            "{fault:?}: {error}"
        );
        let expected = if matches!(fault, Fault::CutRequest) {
            0
        } else {
            delta
        };
        assert_eq!(count_of(&mut client, &name), expected, "{fault:?}");
    }
    let (here, there) = (member(9), key_in(7, 8, "c:").split_off(2));
    relay.arm("7000009", Fault::Reset);
    let many = client
        .ask(&format!("COUNTER.MINCR c {here} 7000009 {there} 1"))
        .items();
    assert!(many[0].error().unwrap().starts_with("UNCERTAIN"), "{many:?}");
    assert_eq!(many[1].int(), 1, "the other shard is not in doubt");
    assert_eq!(count_of(&mut client, &here), 7_000_009);
}

/// The count of a member, once its node is back.
fn count_of(client: &mut Client, member: &str) -> i64 {
    wait_for("the node is back", PATIENCE, || {
        let reply = client.ask(&format!("COUNTER.GET c {member}"));
        reply.error().is_none().then(|| reply.int())
    })
}

#[test]
fn a_take_that_cannot_look_everywhere_says_so_instead_of_nothing() {
    let mut nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .announce(FAULT_EVENTS)
        .start();
    let mut client = proxy.client();
    let here = key_in(0, 8, "c:").split_off(2);
    assert_eq!(take(&mut client, "c"), []);
    nodes[1].kill();
    wait_for("it is known to be down", PATIENCE, || {
        let reply = client.ask("COUNTER.TAKE c");
        let error = reply.expect_error("TRYAGAIN preshard: ");
        error.contains("4 shards not checked").then_some(())
    });
    client.ask(&format!("COUNTER.INCR c {here}")).int();
    assert_eq!(take(&mut client, "c").len(), 1, "what can be had is given");
    client.ask("COUNTER.PENDING c").expect_error("CLUSTERDOWN");
    client.ask("DBSIZE").expect_error("CLUSTERDOWN");
    nodes[1].restart();
    wait_for("it is back", PATIENCE, || {
        (client.ask("COUNTER.TAKE c") == Reply::Array(Vec::new())).then_some(())
    });
}

#[test]
fn keys_of_helpers_can_neither_be_named_nor_seen() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let reserved = "ERR keys starting with '__preshard__:' are reserved";
    client.ask("COUNTER.INCR {t}c m").int();
    client.ask("SET {t}k 1").expect_ok();
    let key = "__preshard__:cp:{t}c";
    for line in [
        "GET $k",
        "SET $k 1",
        "HGETALL $k",
        "DEL $k",
        "DEL {t}k $k",
        "MGET {t}k $k",
        "MSET {t}k 1 $k 2",
        "EXISTS $k",
        "RENAME $k {t}x",
        "RENAME {t}k $k",
        "COPY {t}k $k",
        "COPY $k {t}x",
        "SUNIONSTORE $k {t}a {t}b",
        "TYPE $k",
        "SINTER {t}a $k",
        "OBJECT ENCODING $k",
        "DUMP $k",
        "RESTORE $k 0 x",
        "EXPIRE $k 5",
        "BLPOP $k 1",
        "WATCH $k",
        "XREAD STREAMS $k 0",
        "ZUNION 2 {t}a $k",
        "SORT {t}a STORE $k",
        "GEORADIUS {t}g 1 1 1 m STORE $k",
        "PFMERGE {t}a $k",
        "MEMORY USAGE $k",
        "EVAL return 1 $k",
        "LMPOP 1 $k LEFT",
        "UNLINK $k",
        "TOUCH $k",
        "SET __preshard__: 1",
    ] {
        let line = line.replace("$k", key);
        let words: Vec<String> = if line.starts_with("EVAL") {
            ["EVAL", "return redis.call('GET', KEYS[1])", "1", key]
                .map(str::to_owned)
                .to_vec()
        } else {
            line.split(' ').map(str::to_owned).collect()
        };
        for db in ["0", "1"] {
            client.ask(&format!("SELECT {db}")).expect_ok();
            assert_eq!(client.call(&words).error(), Some(reserved), "{line} in {db}");
        }
        client.ask("SELECT 0").expect_ok();
        client.ask("MULTI").expect_ok();
        if !line.starts_with("WATCH") {
            assert_eq!(client.call(&words).error(), Some(reserved), "{line} queued");
            client.ask("EXEC").expect_error("EXECABORT");
        } else {
            client.ask("DISCARD").expect_ok();
        }
    }
    client.ask("SET __preshard__ 1").expect_ok();
    client.ask("DEL __preshard__").int();
    assert_eq!(client.ask("KEYS *").items().len(), 1);
    assert_eq!(client.ask("DBSIZE").int(), 1);
}

#[test]
fn helpers_are_refused_in_transactions_and_where_their_rules_say_so() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .user("default", "all", "rights = [\"read\", \"write\"]")
        .user(
            "app",
            "app",
            "commands = [\"+@all\", \"-@scripting\"]\nkeys = [\"events:*\", \"other:a\"]",
        )
        .start();
    let mut client = proxy.client();
    client.ask("AUTH default all").expect_ok();
    client.ask("MULTI").expect_ok();
    client
        .ask("COUNTER.INCR c m")
        .expect_error("ERR COUNTER.* and TIMELINE.* are not allowed in MULTI");
    client.ask("EXEC").expect_error("EXECABORT");
    client.ask("AUTH app app").expect_ok();
    for (line, allowed) in [
        ("COUNTER.INCR events m", true),
        ("COUNTER.MINCR events m 1 n 2", true),
        ("COUNTER.INCR other a", true),
        ("COUNTER.INCR other b", false),
        ("COUNTER.MGET other a b", false),
        ("COUNTER.DEL other a", true),
        ("COUNTER.DEL other", false),
        ("COUNTER.TAKE events", true),
        ("COUNTER.TAKE other", false),
        ("COUNTER.PENDING events", true),
        ("COUNTER.PENDING", false),
        ("COUNTER.ACK other 1-1", false),
    ] {
        let reply = client.ask(line);
        let denied = reply.error().is_some_and(|error| error.starts_with("NOPERM"));
        assert_eq!(denied, !allowed, "{line}: {reply:?}");
    }
}

#[test]
fn clients_are_told_of_helpers_and_operators_where_they_run() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let info = client.ask("COMMAND INFO counter.incr").items()[0].items();
    assert_eq!((info[0].text(), info[1].int()), ("counter.incr".to_owned(), -3));
    assert_eq!([3, 4, 5].map(|place| info[place].int()), [1, 1, 1]);
    assert!(
        client.ask("COMMAND DOCS counter.take").items()[1]
            .field("group")
            .unwrap()
            .text()
            == "module"
    );
    let listed = client.ask("COMMAND LIST FILTERBY PATTERN counter.*").items();
    assert_eq!(listed.len(), 9);
    client
        .ask("COMMAND GETKEYS COUNTER.INCR c m")
        .expect_error("ERR The command has no key arguments");
    let mut admin = proxy.admin_client();
    let told = admin.ask("PRESHARD EXPLAIN COUNTER.INCR c m 5");
    assert_eq!(told.field("strategy").unwrap().text(), "helper");
    let shards = told.field("shards").unwrap().items();
    assert_eq!(shards[0].int(), i64::from(shard_of("c:m", 8)));
    assert_eq!(
        admin
            .ask("PRESHARD EXPLAIN COUNTER.TAKE c")
            .field("shards")
            .unwrap()
            .items()
            .len(),
        8
    );
}
