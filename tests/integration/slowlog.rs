//! The slow log: late answers are kept, with what may be shown of them, and nothing else.

use std::time::{Duration, Instant};

use crate::harness::{Client, Node, PATIENCE, Proxy, Reply, Setup, key_in, lacks, undisturbed, wait_until};

fn started(lines: &[&str]) -> (Vec<Node>, Proxy) {
    let nodes = vec![Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let setup = lines.iter().fold(setup, |setup, line| setup.slowlog(line));
    (nodes, setup.start())
}

/// What is slow here: an answer that is not late on purpose takes less on a busy machine, too.
const SLOW: &str = "slower_than = \"300ms\"";
const LATE: Duration = Duration::from_millis(310);
/// A machine that stands still for longer makes an answer late that should not be.
const BEARS: Duration = Duration::from_millis(100);

fn go_by() {
    let begin = Instant::now();
    wait_until("time goes by", PATIENCE, || begin.elapsed() > LATE);
}

/// Asks while the node stands still for longer.
fn ask_slowly(node: &Node, client: &mut Client, words: &[&str]) -> Reply {
    node.freeze();
    client.command(words);
    go_by();
    node.thaw();
    client.reply()
}

fn args_of(entry: &Reply) -> Vec<String> {
    entry.items()[3].items().iter().map(Reply::text).collect()
}

#[test]
fn a_late_answer_is_kept_in_redis_shape_without_the_key() {
    undisturbed(BEARS, keep_a_late_answer);
}

fn keep_a_late_answer() {
    let (nodes, proxy) = started(&[SLOW]);
    let mut client = proxy.client();
    client.ask("CLIENT SETNAME reports").expect_ok();
    let key = key_in(0, 8, "secret:");
    assert_eq!(client.call(&["GET", &key]), Reply::Null);
    assert_eq!(client.ask("SLOWLOG LEN").int(), 0);
    assert_eq!(ask_slowly(&nodes[0], &mut client, &["GET", &key]), Reply::Null);
    let mut other = proxy.client();
    assert_eq!(other.ask("SLOWLOG LEN").int(), 1);
    let bytes = other.call(&["SLOWLOG", "GET"]);
    let entry = bytes.items()[0].items();
    assert_eq!(entry.len(), 6);
    assert_eq!(entry[0].int(), 0);
    let now = other.ask("TIME").items()[0].text().parse::<i64>().unwrap();
    assert!((now - 20..=now).contains(&entry[1].int()), "{entry:?}");
    assert!((300_000..20_000_000).contains(&entry[2].int()), "{entry:?}");
    let size = crate::harness::wire::frame(&["GET", &key]).len();
    assert_eq!(
        args_of(&bytes.items()[0]),
        ["GET".to_owned(), format!("... ({size} bytes)")]
    );
    let address = client.stream().local_addr().unwrap().to_string();
    assert_eq!(
        (entry[4].text(), entry[5].text()),
        (address, "reports".to_owned())
    );
    assert!(!format!("{bytes:?}").contains("secret"));
    proxy.await_metric("preshard_slowlog_entries_total", 1);
    let rows = proxy.admin_client().ask("PRESHARD SHOW SLOWLOG").items();
    let row = format!("{rows:?}");
    assert!(
        row.contains("GET ... (") && row.contains("reports") && !row.contains("secret"),
        "{row}"
    );
    assert!(!proxy.log().contains("secret"));
}

#[test]
fn arguments_are_shown_on_demand_as_redis_shows_them() {
    undisturbed(BEARS, show_arguments);
}

fn show_arguments() {
    let (nodes, proxy) = started(&[SLOW, "show_args = true"]);
    let plain = Node::with(crate::harness::NodeOptions {
        more: ["--slowlog-log-slower-than", "0"].map(str::to_owned).to_vec(),
        ..Default::default()
    });
    let mut client = proxy.client();
    let long = "v".repeat(300);
    let many: Vec<String> = (0..50).map(|number| format!("{{t}}{number}")).collect();
    let mut mset = vec!["MSET"];
    mset.extend(many.iter().flat_map(|key| [key.as_str(), "v"]));
    let requests: [Vec<&str>; 4] = [
        vec!["set", "{t}a", &long],
        vec!["GeT", "{t}\r\n\"'"],
        mset,
        vec!["SINTERSTORE", "{t}d", "{t}x", "{t}y"],
    ];
    let shard = crate::harness::shard_of("{t}a", 8);
    let node = &nodes[usize::from(shard) / 4];
    for request in &requests {
        ask_slowly(node, &mut client, request);
        plain.client().call(request);
        let ours = client.ask("SLOWLOG GET 1").items();
        let theirs = plain.client().ask("SLOWLOG GET 1").items();
        assert_eq!(args_of(&ours[0]), args_of(&theirs[0]));
    }
    assert_eq!(client.ask("SLOWLOG LEN").int(), 4);
}

#[test]
fn the_log_is_bounded_and_can_be_emptied() {
    undisturbed(BEARS, fill_and_empty);
}

fn fill_and_empty() {
    let (nodes, proxy) = started(&[SLOW, "entries_max = 3"]);
    let mut client = proxy.client();
    let key = key_in(0, 8, "k:");
    for command in ["GET", "TTL", "TYPE", "STRLEN", "EXISTS"] {
        ask_slowly(&nodes[0], &mut client, &[command, &key]);
    }
    let names = |client: &mut Client, line: &str| -> Vec<(i64, String)> {
        let entries = client.ask(line).items();
        let entries = entries.iter();
        entries
            .map(|entry| (entry.items()[0].int(), args_of(entry)[0].clone()))
            .collect()
    };
    let newest = |count| -> Vec<(i64, String)> {
        [(4, "EXISTS"), (3, "STRLEN"), (2, "TYPE")]
            .into_iter()
            .map(|(id, name)| (id, name.to_owned()))
            .take(count)
            .collect()
    };
    assert_eq!(names(&mut client, "SLOWLOG GET -1"), newest(3));
    assert_eq!(names(&mut client, "SLOWLOG GET 2"), newest(2));
    assert_eq!(names(&mut client, "SLOWLOG GET 0"), []);
    assert_eq!(client.ask("SLOWLOG LEN").int(), 3);
    client.ask("SLOWLOG RESET").expect_ok();
    assert_eq!(client.ask("SLOWLOG LEN").int(), 0);
    ask_slowly(&nodes[0], &mut client, &["GET", &key]);
    assert_eq!(names(&mut client, "SLOWLOG GET"), [(5, "GET".to_owned())]);
}

#[test]
fn each_request_of_a_pipeline_has_its_own_time() {
    undisturbed(BEARS, time_a_pipeline);
}

fn time_a_pipeline() {
    let (nodes, proxy) = started(&[SLOW]);
    let mut client = proxy.client();
    let (slow, fast) = (key_in(0, 8, "k:"), key_in(6, 8, "k:"));
    client.call(&["MGET", &slow, &fast]);
    nodes[0].freeze();
    client.command(&["GET", &slow]);
    client.command(&["STRLEN", &fast]);
    client.command(&["MGET", &slow, &fast]);
    client.command(&["PING"]);
    let mut other = proxy.client();
    wait_until("the fast one runs", PATIENCE, || nodes[1].calls_of("strlen") == 1);
    go_by();
    nodes[0].thaw();
    (0..4).for_each(|_| drop(client.reply()));
    let entries = other.ask("SLOWLOG GET").items();
    let mut names: Vec<String> = entries.iter().map(|entry| args_of(entry)[0].clone()).collect();
    names.sort();
    assert_eq!(names, ["GET", "MGET"]);
}

#[test]
fn who_waits_on_purpose_is_not_slow_and_a_transaction_may_be() {
    undisturbed(BEARS, wait_on_purpose);
}

fn wait_on_purpose() {
    let (nodes, proxy) = started(&[SLOW]);
    let mut client = proxy.client();
    assert_eq!(client.ask("BLPOP {t}q 0.4"), Reply::Null);
    assert_eq!(client.ask("XREAD BLOCK 400 STREAMS {t}s $"), Reply::Null);
    assert_eq!(client.ask("SLOWLOG LEN").int(), 0);
    let node = &nodes[usize::from(crate::harness::shard_of("{t}", 8)) / 4];
    for watched in [false, true] {
        if watched {
            client.ask("WATCH {t}a").expect_ok();
        }
        client.ask("MULTI").expect_ok();
        client.ask("INCR {t}a");
        ask_slowly(node, &mut client, &["EXEC"]);
        let entry = client.ask("SLOWLOG GET 1").items();
        assert_eq!(args_of(&entry[0])[0], "EXEC");
        client.ask("SLOWLOG RESET").expect_ok();
    }
}

#[test]
fn settings_are_told_and_it_can_be_off() {
    if lacks("words of errors like these") {
        return;
    }
    let plain = Node::start();
    let (nodes, proxy) = started(&["slower_than = 0"]);
    let mut client = proxy.client();
    let key = key_in(0, 8, "k:");
    client.call(&["GET", &key]);
    ask_slowly(&nodes[0], &mut client, &["GET", &key]);
    assert_eq!(client.ask("SLOWLOG LEN").int(), 0);
    let told = client.ask("CONFIG GET slowlog-log-slower-than").items();
    assert_eq!(told[1], Reply::from("-1"));
    for line in [
        "SLOWLOG GET -2",
        "SLOWLOG GET x",
        "SLOWLOG GET 1 2",
        "SLOWLOG LEN x",
        "SLOWLOG NOSUCH",
        "SLOWLOG GET",
    ] {
        assert_eq!(client.ask(line), plain.client().ask(line), "{line}");
    }
    let (_other_nodes, other) = started(&[]);
    for name in ["log-slower-than", "max-len"] {
        let line = format!("CONFIG GET slowlog-{name}");
        let (ours, theirs) = (other.client().ask(&line), plain.client().ask(&line));
        assert_eq!(ours, theirs, "the defaults are Redis's");
    }
}
