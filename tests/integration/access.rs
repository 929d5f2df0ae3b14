//! preshard's own users on the nodes: there after the start, with the rights that they need; back by themselves when a node has lost
//! them; and made by nobody but the leader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use preshard::control::NodeClient;
use preshard::control::fence::{FenceError, act, take_over, words};
use preshard::ids::DbIndex;
use preshard::store::Term;

use crate::faults::FAULT_EVENTS;
use crate::harness::{
    Client, Etcd, Metronome, Node, NodeOptions, PATIENCE, Proxy, Reply, Scratch, Setup, key_in, lacks, small,
    undisturbed, wait_for, wait_until,
};

/// What the operator is promised.
const SERVED_WITHIN: Duration = Duration::from_secs(2);

fn users(node: &Node) -> Vec<String> {
    let users = node.client().ask("ACL USERS").items();
    users.iter().map(Reply::text).collect()
}

/// A column of `SHOW NODES`.
fn column(proxy: &Proxy, name: &str) -> Vec<String> {
    let mut admin = proxy.admin_client();
    admin.ask("HELLO 3");
    let rows = admin.ask("PRESHARD SHOW NODES").items();
    rows.iter().map(|row| row.field(name).unwrap().text()).collect()
}

/// What `CHECK` says of how nodes are logged in to: results and hints.
fn checks(proxy: &Proxy) -> Vec<(String, String)> {
    let mut admin = proxy.admin_client();
    admin.ask("HELLO 3");
    let rows = admin.ask("PRESHARD CHECK").items();
    let of_access = rows
        .iter()
        .filter(|row| row.field("check").unwrap().text() == "access");
    of_access
        .map(|row| {
            (
                row.field("result").unwrap().text(),
                row.field("hint").unwrap().text(),
            )
        })
        .collect()
}

#[test]
fn after_the_start_requests_run_as_a_user_that_may_what_they_need_and_no_more() {
    let (nodes, proxy) = small();
    let key = key_in(0, 8, "k");
    proxy.client().call(&["SET", &key, "v"]).expect_ok();
    wait_until("users are in force", PATIENCE, || {
        column(&proxy, "access") == ["ps-g1", "ps-g1"]
    });
    for node in &nodes {
        assert_eq!(users(node), ["default", "ps-feed", "ps-g1"]);
    }
    wait_until("the workers' links are theirs", PATIENCE, || {
        let list = nodes[0].client().ask("CLIENT LIST").text();
        let mut of_proxy = list
            .lines()
            .filter(|line| line.contains("name=preshard-"))
            .peekable();
        of_proxy.peek().is_some() && of_proxy.all(|line| line.contains(" user=ps-g1"))
    });
    proxy.await_metric("preshard_node_users", 2);
    proxy.await_metric("preshard_node_users_made_total", 2);
    assert_eq!(proxy.metric("preshard_node_users_failed_total"), 0);
    // The tests' nodes let everybody in.
    let told = checks(&proxy);
    let open = told
        .iter()
        .filter(|(result, hint)| result == "warning" && hint.contains("`default`"));
    assert_eq!(open.count(), 2, "{told:?}");
    assert!(
        told.iter()
            .any(|(result, hint)| result == "ok" && hint.contains("ps-g1")),
        "{told:?}"
    );
    if lacks("ACL DRYRUN") {
        return;
    }
    let mut node = nodes[0].client();
    for allowed in [
        "GET k",
        "KEYS *",
        "FLUSHDB",
        "SORT k",
        "EVAL x 0",
        "PUBLISH c m",
        "INFO",
        "CLIENT UNBLOCK 1",
    ] {
        node.ask(&format!("ACL DRYRUN ps-g1 {allowed}")).expect_ok();
    }
    for refused in [
        "FLUSHALL",
        "CONFIG SET a b",
        "ACL USERS",
        "SHUTDOWN",
        "DEBUG SLEEP 0",
        "REPLICAOF NO ONE",
        "SWAPDB 0 1",
    ] {
        assert!(
            !node.ask(&format!("ACL DRYRUN ps-g1 {refused}")).is_ok(),
            "{refused}"
        );
    }
    node.ask("ACL DRYRUN ps-feed SUBSCRIBE c").expect_ok();
    for refused in ["GET k", "SET preshard:mark x", "PUBLISH c m"] {
        assert!(
            !node.ask(&format!("ACL DRYRUN ps-feed {refused}")).is_ok(),
            "{refused}"
        );
    }
}

/// What a client was told while something happened to its node.
#[derive(Debug, Default)]
struct Counted {
    acknowledged: i64,
    uncertain: i64,
    refused: i64,
    /// The longest time without an acknowledgement.
    gap: Duration,
}

/// Counts a key up until it is done.
fn count_up(client: &mut Client, key: &str, done: &AtomicBool) -> Counted {
    let mut counted = Counted::default();
    let mut last = Instant::now();
    while !done.load(Ordering::Relaxed) {
        let reply = client.call(&["INCR", key]);
        let Some(error) = reply.error() else {
            counted.gap = counted.gap.max(last.elapsed());
            last = Instant::now();
            counted.acknowledged += 1;
            continue;
        };
        let word = error.split(' ').next().unwrap_or_default();
        match word {
            "UNCERTAIN" => counted.uncertain += 1,
            "CLUSTERDOWN" | "TRYAGAIN" => counted.refused += 1,
            _ => panic!("{error}"),
        }
    }
    counted.gap = counted.gap.max(last.elapsed());
    counted
}

/// Does something to a node while a client counts: the node is served again in time and nothing is lost. Tells the longest gap.
fn served_through(proxy: &Proxy, key: &str, what: &str, happen: impl FnOnce()) {
    wait_until("all workers serve it", PATIENCE, || {
        // Clients take turns with the workers.
        (0..4).all(|_| proxy.client().call(&["SET", key, "0"]).is_ok())
    });
    let (done, metronome) = (AtomicBool::new(false), Metronome::start());
    let (counted, away) = std::thread::scope(|scope| {
        let counts = scope.spawn(|| count_up(&mut proxy.client(), key, &done));
        let mut client = proxy.client();
        let before = client.call(&["GET", key]);
        wait_until("the client counts", PATIENCE, || {
            client.call(&["GET", key]) != before
        });
        let made = proxy.metric("preshard_node_users_made_total");
        let begin = Instant::now();
        happen();
        // For so long at most there was no node: a server may take its time to start.
        let away = begin.elapsed();
        wait_until("users were made", PATIENCE, || {
            proxy.metric("preshard_node_users_made_total") > made
        });
        wait_until("served again", PATIENCE, || {
            client.call(&["GET", key]).error().is_none()
        });
        done.store(true, Ordering::Relaxed);
        (counts.join().unwrap(), away)
    });
    println!("{what}: {counted:?}");
    // The workers' links are back one by one.
    let value = wait_for("the count", PATIENCE, || {
        proxy.client().call(&["GET", key]).text().parse::<i64>().ok()
    });
    let possible = counted.acknowledged..=counted.acknowledged + counted.uncertain;
    assert!(possible.contains(&value), "{what}: {value} of {counted:?}");
    let late = metronome.late();
    assert!(
        counted.gap < SERVED_WITHIN + away + late,
        "{what}: {counted:?}, away {away:?}, late {late:?}"
    );
}

#[test]
fn users_that_somebody_took_away_come_back_at_once() {
    let folder = Scratch::new("acl");
    let file = folder.file("users.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let node = Node::with(NodeOptions {
        more: vec!["--aclfile".to_owned(), file.display().to_string()],
        ..NodeOptions::default()
    });
    let proxy = Setup::of(&[node.address()]).announce(FAULT_EVENTS).start();
    let key = key_in(3, 8, "count");
    let mut operator = node.client();
    for lines in [
        &["ACL DELUSER ps-g1"][..],
        &["ACL DELUSER ps-g1 ps-feed"],
        &["ACL LOAD"],
        &[
            "ACL SETUSER ps-g1 resetpass >wrong",
            "CLIENT KILL TYPE normal SKIPME yes",
        ],
        &["ACL SETUSER ps-g1 off", "CLIENT KILL TYPE normal SKIPME yes"],
    ] {
        served_through(&proxy, &key, lines[0], || {
            for line in lines {
                assert!(operator.ask(line).error().is_none(), "{line}");
            }
        });
    }
    assert_eq!(users(&node), ["default", "ps-feed", "ps-g1"]);
}

#[test]
fn a_node_that_is_started_anew_has_its_users_at_once() {
    for durable in [true, false] {
        let options = NodeOptions {
            durable,
            ..NodeOptions::default()
        };
        let mut node = Node::with(options);
        let proxy = Setup::of(&[node.address()]).announce(FAULT_EVENTS).start();
        let key = key_in(3, 8, "count");
        if durable {
            served_through(&proxy, &key, "restart with data", || {
                node.kill();
                node.restart();
            });
            continue;
        }
        proxy.client().call(&["SET", &key, "v"]).expect_ok();
        node.kill();
        node.restart();
        let (begin, metronome) = (Instant::now(), Metronome::start());
        let mut client = proxy.client();
        wait_until("served again", PATIENCE, || {
            client.call(&["GET", &key]) == Reply::Null
        });
        println!(
            "restart without data: served {:?} after it was up",
            begin.elapsed()
        );
        let took = begin.elapsed();
        assert!(took < SERVED_WITHIN + metronome.late(), "{took:?}");
        assert_eq!(users(&node), ["default", "ps-feed", "ps-g1"]);
    }
}

#[test]
fn a_login_of_its_own_for_administration_lets_default_be_turned_off() {
    let node = Node::start();
    let mut operator = node.client();
    operator
        .ask("ACL SETUSER boss on >secret ~* &* +@all")
        .expect_ok();
    operator.ask("AUTH boss secret").expect_ok();
    operator.ask("ACL SETUSER default off").expect_ok();
    let folder = Scratch::new("password");
    let file = folder.file("password");
    std::fs::write(&file, "secret\n").unwrap();
    let proxy = Setup::of(&[node.address()])
        .nodes("admin_username = \"boss\"")
        .nodes(&format!("admin_password_file = \"{}\"", file.display()))
        .start();
    for shard in 0..8 {
        proxy
            .client()
            .call(&["SET", &key_in(shard, 8, "k"), "v"])
            .expect_ok();
    }
    let told = checks(&proxy);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 == "ok" && told[0].1.contains("ps-g1"), "{told:?}");
    let said = operator.ask("ACL GETUSER default").items();
    assert!(
        said[1].items().iter().any(|flag| flag.text() == "off"),
        "left as it was"
    );
}

/// Served as the configured user, and labelled so.
fn served_as_configured(node: &Node, proxy: &Proxy, result: &str) {
    let key = key_in(3, 8, "k");
    proxy.client().call(&["SET", &key, "v"]).expect_ok();
    assert_eq!(proxy.client().call(&["GET", &key]), Reply::from("v"));
    let list = node.client().ask("CLIENT LIST").text();
    assert!(!list.contains("user=ps-"), "{list}");
    assert_eq!(column(proxy, "access"), ["configured"]);
    assert_eq!(proxy.metric("preshard_node_users"), 0);
    let told = checks(proxy);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].0 == result && told[0].1.contains("configured user"),
        "{told:?}"
    );
}

#[test]
fn a_node_whose_acl_cannot_be_changed_is_served_as_the_configured_user() {
    let without_right = Node::start();
    without_right.client().ask("ACL SETUSER default -acl").expect_ok();
    let without_acl = Node::with(NodeOptions {
        more: ["--rename-command", "ACL", ""].map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    });
    for node in [without_right, without_acl] {
        let proxy = Setup::of(&[node.address()]).start();
        served_as_configured(&node, &proxy, "warning");
        wait_until("it is told", PATIENCE, || proxy.log().contains("node_acl_fixed"));
    }
}

#[test]
fn with_acl_users_off_nodes_are_left_alone_also_when_users_were_there_before() {
    let node = Node::start();
    let setup = Setup::of(&[node.address()]);
    let off = setup.clone().nodes("acl_users = \"off\"");
    let mut proxy = off.start();
    served_as_configured(&node, &proxy, "ok");
    assert_eq!(users(&node), ["default"]);
    let term = node
        .client_in(proxy.setup.metadata_database())
        .ask("GET preshard:term");
    assert_eq!(term, Reply::Null, "not taken over");
    assert!(proxy.stop().success());
    let mut with_users = setup.store(&proxy.store).start();
    wait_until("it has a user", PATIENCE, || {
        column(&with_users, "access") == ["ps-g1"]
    });
    assert!(with_users.stop().success());
    served_as_configured(&node, &off.store(&proxy.store).start(), "ok");
}

#[test]
fn what_is_no_node_of_the_cluster_gets_no_users() {
    let mut node = Node::start();
    let proxy = Setup::of(&[node.address()])
        .nodes("on_empty = \"refuse\"")
        .announce(FAULT_EVENTS)
        .start();
    let key = key_in(3, 8, "k");
    let mut client = proxy.client();
    client.call(&["SET", &key, "v"]).expect_ok();
    node.kill();
    node.restart();
    wait_until("it is told why", PATIENCE, || {
        client.call(&["GET", &key]);
        proxy.log().contains("node_not_provisioned")
    });
    assert!(
        proxy.log().contains("on_empty is \\\"refuse\\\""),
        "{}",
        proxy.log()
    );
    client.call(&["GET", &key]).expect_error("CLUSTERDOWN");
    assert_eq!(users(&node), ["default"]);
    assert!(node.all_keys(16).is_empty(), "nothing was written to it");
    wait_until("it is counted", PATIENCE, || {
        proxy.metric("preshard_node_users_failed_total") > 0
    });
}

#[test]
fn only_who_leads_makes_users() {
    // Longer than its lease, and another one leads.
    undisturbed(Duration::from_secs(1), make_users_as_the_leader);
}

fn make_users_as_the_leader() {
    let etcd = Etcd::start(1);
    let node = Node::start();
    let setup = Setup::of(&[node.address()])
        .store(&etcd.store("shop"))
        .announce(FAULT_EVENTS);
    let mut first = setup.start();
    let second = setup.start();
    let made = |proxy: &Proxy| proxy.metric("preshard_node_users_made_total");
    let mut operator = node.client();
    let key = key_in(3, 8, "k");
    for round in 1..=3 {
        assert_eq!(operator.ask("ACL DELUSER ps-g1"), Reply::Int(1));
        wait_until("the leader has made them anew", PATIENCE, || {
            let leads = first.metric("preshard_leader") == 1;
            assert!(leads || made(&first) > round, "another one leads");
            made(&first) > round
        });
        for proxy in [&first, &second] {
            wait_until("served", PATIENCE, || {
                proxy.client().call(&["SET", &key, "v"]).is_ok()
            });
        }
    }
    assert_eq!(made(&second), 0);
    let term = || {
        node.client_in(setup.metadata_database())
            .ask("GET preshard:term")
            .text()
    };
    let before: i64 = term().parse().unwrap();
    assert!(first.stop().success());
    assert_eq!(operator.ask("ACL DELUSER ps-g1"), Reply::Int(1));
    wait_until("the next leader has made them", PATIENCE, || made(&second) > 0);
    wait_until("served", PATIENCE, || {
        second.client().call(&["SET", &key, "v"]).is_ok()
    });
    assert!(term().parse::<i64>().unwrap() > before, "taken over");
}

#[test]
fn clients_do_not_notice_that_the_user_of_their_node_is_another_one() {
    let etcd = Etcd::start(1);
    let node = Node::start();
    let setup = Setup::of(&[node.address()]).store(&etcd.store("shop"));
    let mut makes_users = setup.start();
    // The next leader is told to make none: the topology goes back to the configured login, while clients are served.
    let proxy = setup.nodes("acl_users = \"off\"").start();
    wait_until("it has a user", PATIENCE, || {
        column(&proxy, "access") == ["ps-g1"]
    });
    let done = AtomicBool::new(false);
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "count")).collect();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number: usize| {
                scope.spawn({
                    let (proxy, done, keys) = (&proxy, &done, &keys);
                    move || {
                        let mut client = proxy.client();
                        let mut acknowledged = [0_i64; 8];
                        for round in number.. {
                            if done.load(Ordering::Relaxed) {
                                break;
                            }
                            let at = round % 8;
                            let key = keys[at].as_str();
                            for _ in 0..20 {
                                client.command(&["INCR", key]);
                            }
                            client.command(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", key]);
                            client.command(&["MULTI"]);
                            client.command(&["INCR", key]);
                            client.command(&["EXEC"]);
                            for _ in 0..24 {
                                let reply = client.reply();
                                assert!(reply.error().is_none(), "{reply:?}");
                            }
                            acknowledged[at] += 22;
                        }
                        acknowledged
                    }
                })
            })
            .collect();
        wait_until("clients are served", PATIENCE, || {
            proxy.metric("preshard_requests_total") > 1000
        });
        assert!(makes_users.stop().success());
        wait_until("the configured login is in force", PATIENCE, || {
            column(&proxy, "access") == ["configured"]
        });
        let before = proxy.metric("preshard_requests_total");
        wait_until("clients are served", PATIENCE, || {
            proxy.metric("preshard_requests_total") > before + 1000
        });
        done.store(true, Ordering::Relaxed);
        let mut sums = [0; 8];
        for client in clients {
            sums.iter_mut()
                .zip(client.join().unwrap())
                .for_each(|(sum, count)| *sum += count);
        }
        for (key, sum) in keys.iter().zip(sums) {
            // A number also where nothing was counted.
            assert_eq!(proxy.client().call(&["INCRBY", key, "0"]).int(), sum, "{key}");
        }
    });
    wait_until("no link is as that user any more", PATIENCE, || {
        !node.client().ask("CLIENT LIST").text().contains(" user=ps-g1")
    });
}

#[test]
fn another_run_of_a_node_is_not_served_before_the_topology_knows_it() {
    let mut etcd = Etcd::start(1);
    let folder = Scratch::new("acl");
    let file = folder.file("users.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let mut node = Node::with(NodeOptions {
        durable: true,
        more: vec!["--aclfile".to_owned(), file.display().to_string()],
        ..NodeOptions::default()
    });
    let proxy = Setup::of(&[node.address()])
        .store(&etcd.store("shop"))
        .announce(FAULT_EVENTS)
        .announce_also(&["store_unreachable", "nodes_not_provisioned"])
        .start();
    let key = key_in(3, 8, "k");
    let mut client = proxy.client();
    client.call(&["SET", &key, "v"]).expect_ok();
    // The next run has the same users, with the same passwords: only the topology could tell that they are meant.
    node.client().ask("ACL SAVE").expect_ok();
    etcd.kill(0);
    node.kill();
    node.restart();
    let login = |user: &str| {
        node.client()
            .ask("ACL USERS")
            .items()
            .iter()
            .any(|found| found.text() == user)
    };
    assert!(login("ps-g1"));
    wait_until(
        "whoever led has looked, and cannot tell; or leads no more",
        PATIENCE,
        || {
            client.call(&["GET", &key]);
            proxy.log().contains("nodes_not_provisioned") || proxy.metric("preshard_leader") == 0
        },
    );
    for _ in 0..20 {
        client.call(&["GET", &key]).expect_error("CLUSTERDOWN");
    }
    etcd.start_member(0);
    wait_until("served again", PATIENCE, || {
        client.call(&["GET", &key]) == Reply::from("v")
    });
}

#[test]
fn a_store_that_counts_terms_from_the_beginning_does_not_lock_preshard_out() {
    let node = Node::start();
    let proxy = Setup::of(&[node.address()])
        .announce(FAULT_EVENTS)
        .announce_also(&["node_term_replaced"])
        .start();
    let mut metadata = node.client_in(proxy.setup.metadata_database());
    metadata.ask("SET preshard:term 1000000").expect_ok();
    let key = key_in(3, 8, "k");
    served_through(&proxy, &key, "a later term", || {
        assert_eq!(metadata.ask("ACL DELUSER ps-g1"), Reply::Int(1));
    });
    assert_eq!(metadata.ask("GET preshard:term"), Reply::from("1"));
    wait_until("it is told", PATIENCE, || {
        proxy.log().contains("node_term_replaced")
    });
}

#[test]
fn a_leader_of_the_past_does_nothing_more_on_a_node() {
    let node = Node::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let address: preshard::topology::Address = node.address().parse().unwrap();
    let connect = || {
        let address = address.clone();
        async move {
            let login = preshard::worker::shared::NodeCredentials::default();
            NodeClient::connect(&address, &login, PATIENCE).await.unwrap()
        }
    };
    let (db, old, new) = (DbIndex(12), Term(7), Term(8));
    let push = |term: Term| words(["RPUSH", "done", &term.to_string()]);
    let acknowledged = runtime.block_on(async {
        let mut past = connect().await;
        let mut before = act(&mut past, db, old, &[push(old)]).await;
        assert!(
            matches!(before, Err(FenceError::Deposed { .. })),
            "nobody has taken over yet: {before:?}"
        );
        take_over(&mut past, db, old).await.unwrap();
        before = act(&mut past, db, old, &[push(old)]).await;
        assert!(before.is_ok(), "{before:?}");
        // It goes on as fast as it can while the next one takes over.
        let goes_on = runtime.spawn(async move {
            let mut acknowledged = 1;
            loop {
                match act(&mut past, db, old, &[push(old)]).await {
                    Ok(_) => acknowledged += 1,
                    Err(FenceError::Deposed { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let again = take_over(&mut past, db, old).await;
            assert!(matches!(again, Err(FenceError::Deposed { .. })), "{again:?}");
            let again = act(&mut past, db, old, &[push(old)]).await;
            assert!(matches!(again, Err(FenceError::Deposed { .. })), "{again:?}");
            acknowledged
        });
        let mut next = connect().await;
        let mut look = node.client_in(12);
        wait_until("the past acts", PATIENCE, || look.ask("LLEN done").int() > 50);
        take_over(&mut next, db, new).await.unwrap();
        act(&mut next, db, new, &[push(new)]).await.unwrap();
        goes_on.await.unwrap()
    });
    let done = node.client_in(12).ask("LRANGE done 0 -1").items();
    let of_past = done.iter().take_while(|term| term.text() == "7").count();
    assert_eq!(of_past, acknowledged);
    assert_eq!(
        done.len(),
        acknowledged + 1,
        "nothing behind the next one's: {done:?}"
    );
}
