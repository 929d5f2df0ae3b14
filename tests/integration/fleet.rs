//! Several proxies on one etcd: what one changes all serve, one leads, and nobody needs etcd to serve.

mod outage;
mod restore;

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Etcd, Metronome, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, key_in, wait_for, wait_until,
};

/// One row of `SHOW PROXIES`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: String,
    address: String,
    state: String,
    epoch: u64,
    leads: bool,
    is_self: bool,
}

fn rows(proxy: &Proxy) -> Vec<Row> {
    let reply = proxy.admin_client().ask("PRESHARD SHOW PROXIES");
    let rows = reply.items().into_iter();
    rows.map(|row| {
        let text = |name: &str| row.field(name).unwrap().text();
        Row {
            id: text("id"),
            address: text("address"),
            state: text("state"),
            epoch: text("epoch").parse().unwrap(),
            leads: text("leader") == "1",
            is_self: text("self") == "1",
        }
    })
    .collect()
}

fn own_id(proxy: &Proxy) -> String {
    let own = rows(proxy).into_iter().find(|row| row.is_self);
    own.expect("a row of its own").id
}

/// The one that leads, as this proxy sees it.
fn leader_of(proxy: &Proxy) -> Option<String> {
    let mut leaders = rows(proxy).into_iter().filter(|row| row.leads);
    let leader = leaders.next();
    assert_eq!(leaders.next(), None, "two lead");
    leader.map(|row| row.id)
}

/// Waits until all of them see the same leader.
fn agreed_leader(proxies: &[&Proxy]) -> String {
    wait_for("all see one leader", PATIENCE, || {
        let leaders: Vec<Option<String>> = proxies.iter().map(|proxy| leader_of(proxy)).collect();
        let first = leaders.first().cloned().flatten()?;
        leaders
            .iter()
            .all(|leader| *leader == Some(first.clone()))
            .then_some(first)
    })
}

fn epoch(proxy: &Proxy) -> u64 {
    let reply = proxy.admin_client().ask("PRESHARD TOPOLOGY EPOCH");
    reply.int().try_into().unwrap()
}

fn dump(proxy: &Proxy) -> String {
    proxy.admin_client().ask("PRESHARD TOPOLOGY DUMP").text()
}

/// An admin client that waits for as long as a change may take without etcd.
fn patient(proxy: &Proxy) -> Client {
    let mut client = proxy.admin_client();
    client.limit = Duration::from_secs(60);
    client
}

fn load(proxy: &Proxy, document: &str) -> Reply {
    patient(proxy).call(&["PRESHARD", "TOPOLOGY", "LOAD", document])
}

/// A change that changes nothing but the epoch.
fn change(proxy: &Proxy) -> Reply {
    load(proxy, &dump(proxy))
}

/// Makes such a change. On a busy machine one of the proxies may be late, and that is said.
fn changed(proxy: &Proxy) -> String {
    let said = change(proxy);
    assert!(said.is_ok() || said.text().starts_with("OK epoch "), "{said:?}");
    said.text()
}

fn mark_epoch(node: &Node, setup: &Setup) -> u64 {
    let mark = node
        .client_in(setup.metadata_database())
        .ask("GET preshard:mark")
        .text();
    let (_, rest) = mark.split_once("\"epoch\":").unwrap();
    rest.trim_end_matches('}').parse().unwrap()
}

/// Without users of preshard's own on the nodes, which the leader makes by a change: here epochs are counted.
fn without_users(setup: Setup) -> Setup {
    setup.nodes("acl_users = \"off\"")
}

fn cluster(etcd: &Etcd, shards: u16) -> (Vec<Node>, Setup) {
    let options = NodeOptions {
        databases: u32::from(shards) + 16,
        ..NodeOptions::default()
    };
    let nodes: Vec<Node> = (0..2).map(|_| Node::with(options.clone())).collect();
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).layout(shards, 15);
    let setup = setup.store(&etcd.store("shop"));
    (nodes, without_users(setup))
}

#[test]
fn a_change_on_one_of_three_proxies_is_served_by_all_when_it_is_answered() {
    let (etcd, metronome) = (Etcd::start(3), Metronome::start());
    let (nodes, setup) = cluster(&etcd, 1024);
    let starting = [setup.launch(), setup.launch(), setup.launch()];
    let proxies = starting.map(|launch| setup.until_ready(launch));
    let all: Vec<&Proxy> = proxies.iter().collect();
    agreed_leader(&all);
    wait_until("all see all", PATIENCE, || {
        all.iter().all(|proxy| rows(proxy).len() == 3)
    });
    let (mut took, mut late) = (Vec::new(), 0);
    for round in 0..15_usize {
        let before = epoch(&proxies[0]);
        let document = dump(&proxies[round % 3]);
        let start = Instant::now();
        let said = load(&proxies[round % 3], &document);
        took.push(start.elapsed());
        if said.is_ok() {
            for proxy in &proxies {
                assert_eq!(epoch(proxy), before + 1, "it was acknowledged, so all serve it");
            }
            continue;
        }
        // On a busy machine one of them may be late, and that is said.
        assert!(said.text().starts_with("OK epoch "), "{said:?}");
        late += 1;
        wait_until("all serve it", PATIENCE, || {
            proxies.iter().all(|proxy| epoch(proxy) == before + 1)
        });
    }
    assert!(late < 5, "{late} of 15 were late");
    took.sort_unstable();
    println!(
        "a change seen by three proxies: median {:?}, slowest {:?}",
        took[7], took[14]
    );
    assert!(took[7] < Duration::from_secs(2), "{took:?}");
    assert!(proxies.iter().all(|proxy| dump(proxy) == dump(&proxies[0])));
    let now = epoch(&proxies[0]);
    wait_until("the nodes' marks follow", PATIENCE, || {
        nodes.iter().all(|node| mark_epoch(node, &setup) == now)
    });
    let made: u64 = proxies
        .iter()
        .map(|proxy| proxy.metric("preshard_topology_changes_total"))
        .sum();
    assert_eq!(made, 15);
    for proxy in &proxies {
        for (metric, value) in [
            ("preshard_proxies", 3),
            ("preshard_store_up", 1),
            ("preshard_topology_epoch_served", now),
        ] {
            proxy.await_metric(metric, value);
        }
        let (resyncs, late) = (proxy.metric("preshard_store_resyncs_total"), metronome.late());
        // Who hears nothing for two seconds reads all anew.
        assert!(
            resyncs == 0 || late > Duration::from_secs(1),
            "{resyncs}, late {late:?}"
        );
    }
    wait_until("one leads", PATIENCE, || {
        proxies
            .iter()
            .map(|proxy| proxy.metric("preshard_leader"))
            .sum::<u64>()
            == 1
    });
}

#[test]
fn changes_made_at_the_same_time_on_all_proxies_come_one_after_the_other() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = cluster(&etcd, 8);
    let starting = [setup.launch(), setup.launch(), setup.launch()];
    let proxies = starting.map(|launch| setup.until_ready(launch));
    let before = epoch(&proxies[0]);
    let document = dump(&proxies[0]);
    let made: u64 = std::thread::scope(|scope| {
        let runs = proxies.each_ref().map(|proxy| {
            let document = &document;
            scope.spawn(move || {
                // Who was overtaken all the time is told to try again.
                let said = || load(proxy, document).text();
                let last = || Some(said()).filter(|said| !said.contains("nothing was changed, try again"));
                let done = |_: &i32| wait_for("it is made", PATIENCE, last).starts_with("OK");
                (0..10).filter(done).count() as u64
            })
        });
        runs.map(|run| run.join().unwrap()).into_iter().sum()
    });
    assert_eq!(made, 30, "each of them is made");
    wait_until("all serve the last", PATIENCE, || {
        proxies.iter().all(|proxy| epoch(proxy) == epoch(&proxies[0]))
    });
    // Two that make the very same document at the same time both see it as theirs; the ten of one proxy come one after the other.
    let rose = epoch(&proxies[0]) - before;
    assert!((10..=30).contains(&rose), "{rose}");
    assert!(proxies.iter().all(|proxy| dump(proxy) == dump(&proxies[0])));
}

#[test]
fn a_leader_that_is_killed_is_followed_within_five_seconds() {
    let etcd = Etcd::start(3);
    let (_nodes, setup) = cluster(&etcd, 8);
    let mut proxies = vec![setup.start(), setup.start(), setup.start()];
    let all: Vec<&Proxy> = proxies.iter().collect();
    let first = agreed_leader(&all);
    let term = proxies[0].metric("preshard_leader_term");
    let at = proxies.iter().position(|proxy| own_id(proxy) == first).unwrap();
    let mut dead = proxies.remove(at);
    let (start, metronome) = (Instant::now(), Metronome::start());
    dead.kill();
    let second = wait_for("another one leads", PATIENCE, || {
        leader_of(&proxies[0]).filter(|leader| *leader != first)
    });
    let took = start.elapsed();
    println!("another one leads {took:?} after the first was killed");
    assert!(
        took < Duration::from_secs(5) + metronome.late(),
        "{took:?}, late {:?}",
        metronome.late()
    );
    assert_eq!(agreed_leader(&[&proxies[0], &proxies[1]]), second);
    wait_until("the term is a greater one", PATIENCE, || {
        proxies[0].metric("preshard_leader_term") > term
    });
    wait_until("the dead one is not listed any more", PATIENCE, || {
        proxies.iter().all(|proxy| rows(proxy).len() == 2)
    });
    // One that is stopped in order gives the lead away at once, and is gone at once.
    let at = proxies.iter().position(|proxy| own_id(proxy) == second).unwrap();
    let mut leaving = proxies.remove(at);
    let start = Instant::now();
    assert!(leaving.stop().success());
    let last = &proxies[0];
    wait_until("the last one leads", PATIENCE, || {
        leader_of(last) == Some(own_id(last))
    });
    wait_until("it is alone", PATIENCE, || rows(last).len() == 1);
    println!("handed over {:?} after SIGTERM", start.elapsed());
}

#[test]
fn a_proxy_that_was_stopped_longer_than_its_lease_comes_back_and_does_not_lead() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = cluster(&etcd, 8);
    let proxies = [setup.start(), setup.start()];
    let first = agreed_leader(&[&proxies[0], &proxies[1]]);
    let at = proxies.iter().position(|proxy| own_id(proxy) == first).unwrap();
    let (stopped, other) = (&proxies[at], &proxies[1 - at]);
    stopped.freeze();
    // It still counts as alive, so a change tells that it has not followed.
    let said = change(other).text();
    assert!(
        said.starts_with("OK epoch 2 is in force, but") && said.contains(&first),
        "{said}"
    );
    wait_until("the other one leads", PATIENCE, || {
        leader_of(other) == Some(own_id(other))
    });
    wait_until("the stopped one counts as gone", PATIENCE, || {
        rows(other).len() == 1
    });
    let said = changed(other);
    assert!(!said.contains(&first), "it is waited for: {said}");
    stopped.thaw();
    // From the first moment on it knows that its time is over.
    assert_ne!(leader_of(stopped), Some(first.clone()));
    wait_until("it has caught up", PATIENCE, || epoch(stopped) == 3);
    wait_until("it is registered again", PATIENCE, || {
        rows(other)
            .iter()
            .any(|row| row.id == first && row.epoch == 3 && !row.leads)
    });
    assert_eq!(agreed_leader(&[stopped, other]), own_id(other));
    changed(stopped);
    wait_until("the other one serves it", PATIENCE, || epoch(other) == 4);
}

#[test]
fn a_record_that_was_deleted_or_is_wrong_is_put_right() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = cluster(&etcd, 8);
    let proxies = [setup.start(), setup.start()];
    agreed_leader(&[&proxies[0], &proxies[1]]);
    wait_until("both are listed", PATIENCE, || rows(&proxies[0]).len() == 2);
    // All keys below /shop/proxies/ and the leader's, in base64.
    let lost = etcd.revision(0);
    for body in [
        r#"{"key":"L3Nob3AvcHJveGllcy8=","range_end":"L3Nob3AvcHJveGllczA="}"#,
        r#"{"key":"L3Nob3AvbGVhZGVy"}"#,
    ] {
        assert!(etcd.post(0, "kv/deleterange", body).unwrap().contains("200 OK"));
    }
    wait_until("somebody has written", PATIENCE, || etcd.revision(0) >= lost + 5);
    agreed_leader(&[&proxies[0], &proxies[1]]);
    wait_until("both are listed again", PATIENCE, || {
        proxies.iter().all(|proxy| rows(proxy).len() == 2)
    });
}

/// A link is being made while the topology changes: the node has seen the change, this proxy is about to.
#[test]
fn a_node_that_is_ahead_of_a_proxy_is_waited_for_and_not_refused() {
    let etcd = Etcd::start(1);
    let (nodes, setup) = cluster(&etcd, 8);
    let setup = setup.nodes("connect_timeout = \"20s\"");
    let proxies = [setup.start(), setup.start()];
    let key = key_in(0, 8, "k");
    proxies[0].client().call(&["SET", &key, "v"]).expect_ok();
    // The mark of a change that this proxy cannot know of.
    let mut metadata = nodes[0].client_in(setup.metadata_database());
    let mark = metadata.ask("GET preshard:mark").text();
    let ahead = mark.replace("\"epoch\":1", "\"epoch\":7");
    metadata.call(&["SET", "preshard:mark", &ahead]).expect_ok();
    metadata.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let mut client = proxies[0].client();
    client.limit = Duration::from_secs(30);
    client.command(&["GET", &key]);
    wait_until("a link waits at the node", PATIENCE, || {
        let list = metadata.ask("CLIENT LIST").text();
        list.lines()
            .any(|line| line.contains("name=preshard-") && line.contains("cmd=get"))
    });
    // The other one makes it true: higher than what any node carries.
    changed(&proxies[1]);
    assert_eq!(client.reply(), Reply::from("v"));
    wait_until("both serve it", PATIENCE, || {
        proxies.iter().all(|proxy| epoch(proxy) == 8)
    });
    // And a proxy that starts now has no reason to refuse.
    let third = setup.start();
    assert_eq!(epoch(&third), 8);
}

#[test]
fn a_node_that_stays_ahead_is_not_served_and_the_reason_is_told() {
    let etcd = Etcd::start(1);
    let (nodes, setup) = cluster(&etcd, 8);
    let setup = setup.announce(&["node_down"]);
    let proxy = setup.start();
    let key = key_in(0, 8, "k");
    proxy.client().call(&["SET", &key, "v"]).expect_ok();
    let mut metadata = nodes[0].client_in(setup.metadata_database());
    let mark = metadata.ask("GET preshard:mark").text();
    let ahead = mark.replace("\"epoch\":1", "\"epoch\":7");
    metadata.call(&["SET", "preshard:mark", &ahead]).expect_ok();
    metadata.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    proxy.client().call(&["GET", &key]).expect_error("CLUSTERDOWN");
    wait_until("the reason is told", PATIENCE, || {
        proxy.log().contains("it has seen epoch 7, and epoch 1 is served")
    });
    // The other node is served as before, and this one again once the topology is put right.
    proxy.client().call(&["SET", &key_in(7, 8, "k"), "v"]).expect_ok();
    change(&proxy).expect_ok();
    wait_until("it is served", PATIENCE, || {
        proxy.client().call(&["GET", &key]) == Reply::from("v")
    });
}

#[test]
fn a_proxy_alone_with_a_file_leads_and_lists_itself() {
    let nodes = [Node::start(), Node::start()];
    let setup = without_users(Setup::of(&[nodes[0].address(), nodes[1].address()]));
    let mut proxy = setup.start();
    wait_until("it leads", PATIENCE, || leader_of(&proxy) == Some(own_id(&proxy)));
    let row = rows(&proxy).remove(0);
    assert_eq!(
        (row.address.as_str(), row.state.as_str()),
        (proxy.data.to_string().as_str(), "live")
    );
    assert_eq!((row.epoch, rows(&proxy).len()), (1, 1));
    proxy.await_metric("preshard_leader_term", 1);
    assert_eq!(change(&proxy), Reply::Simple("OK".to_owned()));
    assert_eq!(epoch(&proxy), 2);
    let document = dump(&proxy);
    assert!(proxy.stop().success());
    let proxy = setup.store(&proxy.store).start();
    assert_eq!(dump(&proxy), document);
    wait_until("it leads in a greater term", PATIENCE, || {
        proxy.metric("preshard_leader_term") == 2
    });
}

#[test]
fn tasks_are_the_same_on_every_proxy() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = cluster(&etcd, 8);
    let proxies = [setup.start(), setup.start()];
    let ask = |proxy: &Proxy, words: &str| proxy.admin_client().ask(&format!("PRESHARD {words}"));
    assert_eq!(ask(&proxies[0], "TASK LIST"), Reply::Array(Vec::new()));
    for words in ["TASK STATUS m-1", "TASK CANCEL m-1", "TASK STATUS ../x"] {
        ask(&proxies[0], words).expect_error("ERR there is no task '");
    }
    // `/shop/tasks/m-1`, and `{"state":"copying","shards":[1,2],"pause_ms":0.5}`, in base64.
    let body = r#"{"key":"L3Nob3AvdGFza3MvbS0x","value":"eyJzdGF0ZSI6ImNvcHlpbmciLCJzaGFyZHMiOlsxLDJdLCJwYXVzZV9tcyI6MC41fQ=="}"#;
    assert!(etcd.post(0, "kv/put", body).unwrap().contains("200 OK"));
    for proxy in &proxies {
        let row = ask(proxy, "TASK STATUS m-1");
        assert_eq!(row.field("task").unwrap().text(), "m-1");
        assert_eq!(row.field("state").unwrap().text(), "copying");
        assert_eq!(row.field("pause_ms").unwrap().text(), "0.5");
        assert_eq!(ask(proxy, "SHOW TASKS").items(), [row]);
        ask(proxy, "TASK CANCEL m-1").expect_error("ERR there is no move 'm-1'");
    }
}
