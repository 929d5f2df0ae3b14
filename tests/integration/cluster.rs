//! `cluster_emulation`: to clients in cluster mode the proxy is a cluster of one node, in the shapes of a real one.

use crate::clients::{node_js, python, run_script};
use crate::harness::{Client, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, lacks, left_out, wait_until};

fn emulating(lines: &[&str]) -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).proxy("cluster_emulation = true");
    let setup = lines.iter().fold(setup, |setup, line| setup.proxy(line));
    let proxy = setup.start();
    (nodes, proxy)
}

/// A Redis in cluster mode that has every slot.
fn real_cluster() -> Node {
    let more = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"];
    let node = Node::with(NodeOptions {
        more: more.map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    });
    let mut client = node.client();
    client.ask("CLUSTER ADDSLOTSRANGE 0 16383").expect_ok();
    wait_until("the cluster is well", PATIENCE, || {
        client.ask("CLUSTER INFO").text().contains("cluster_state:ok")
    });
    node
}

/// A reply as text, without what differs between any two nodes: its id, its ports, its epoch.
fn shape(reply: &Reply, id: &str, port: u16) -> String {
    let text = format!("{reply:?}").replace(id, "<id>");
    let text = text
        .replace(&format!(":{port}@{}", u32::from(port) + 10_000), ":<port>@<bus>")
        .replace(&format!(":{port}@0"), ":<port>@<bus>")
        .replace(&format!(":{port}"), ":<port>");
    ["0", "1", "2"].iter().fold(text, |text, epoch| {
        text.replace(&format!("epoch:{epoch}"), "epoch:<n>")
            .replace(&format!("- 0 0 {epoch} connected"), "- 0 0 <n> connected")
    })
}

#[test]
#[expect(clippy::too_many_lines, reason = "one scene, told from front to back")]
fn replies_have_the_shapes_of_a_real_cluster_node() {
    if lacks("CLUSTER ADDSLOTSRANGE") || left_out(&["valkey 9"], "tells more of a shard") {
        return;
    }
    let (_nodes, proxy) = emulating(&[]);
    let real = real_cluster();
    for hello in ["HELLO 2", "HELLO 3"] {
        let (mut ours, mut theirs) = (proxy.client(), real.client());
        let greetings = [ours.ask(hello), theirs.ask(hello)];
        for name in ["mode", "role", "proto"] {
            assert_eq!(greetings[0].field(name), greetings[1].field(name), "{name}");
        }
        let (our_id, their_id) = (ours.ask("CLUSTER MYID").text(), theirs.ask("CLUSTER MYID").text());
        assert_eq!(our_id.len(), 40);
        for command in [
            "CLUSTER SLOTS",
            "CLUSTER SHARDS",
            "CLUSTER NODES",
            "CLUSTER INFO",
            "CLUSTER LINKS",
            "CLUSTER KEYSLOT a{b}c",
            "CLUSTER REPLICAS <id>",
            "CLUSTER SLAVES <id>",
            "CLUSTER REPLICAS nobody",
            "CLUSTER COUNT-FAILURE-REPORTS <id>",
            "CLUSTER COUNT-FAILURE-REPORTS nobody",
            "CLUSTER COUNTKEYSINSLOT x",
            "CLUSTER COUNTKEYSINSLOT 16384",
            "CLUSTER GETKEYSINSLOT 16384 1",
            "CLUSTER GETKEYSINSLOT 1 -1",
            "CLUSTER NONSENSE",
            "READONLY",
            "READWRITE",
            "ASKING",
            "ROLE",
            "INFO cluster",
            "CONFIG GET cluster-enabled",
        ] {
            let told = shape(
                &ours.ask(&command.replace("<id>", &our_id)),
                &our_id,
                proxy.data.port(),
            );
            let expected = shape(
                &theirs.ask(&command.replace("<id>", &their_id)),
                &their_id,
                real.port,
            );
            assert_eq!(told, expected, "{hello}, {command}");
        }
        assert!(ours.ask("INFO server").text().contains("redis_mode:cluster\r\n"));
        assert_eq!(ours.ask("CLUSTER MYSHARDID").text().len(), 40);
        assert_eq!(ours.ask("CLUSTER GETSLOTMIGRATIONS"), Reply::Array(Vec::new()));
        for refused in [
            "COUNTKEYSINSLOT 5",
            "GETKEYSINSLOT 5 10",
            "SLOT-STATS SLOTSRANGE 0 9",
        ] {
            ours.ask(&format!("CLUSTER {refused}"))
                .expect_error("ERR preshard ");
        }
        for write in [
            "ADDSLOTS 1",
            "MEET 127.0.0.1 1",
            "RESET",
            "FAILOVER",
            "SETSLOT 1 STABLE",
        ] {
            ours.ask(&format!("CLUSTER {write}"))
                .expect_error("ERR unknown command 'CLUSTER ");
        }
        assert!(ours.ask("CLUSTER HELP").items().len() > 10);
        // Pinned databases are for clients that are not in cluster mode.
        ours.ask("SELECT 1").expect_ok();
    }
}

#[test]
fn the_node_id_stays_and_the_advertised_address_is_told() {
    let (_nodes, mut proxy) = emulating(&["advertise = \"Redis.Example:7000\""]);
    let ask = |client: &mut Client, line: &str| client.ask(&format!("CLUSTER {line}"));
    let mut client = proxy.client3();
    let id = ask(&mut client, "MYID").text();
    let node = ask(&mut client, "SLOTS").items()[0].items()[2].items();
    assert_eq!(
        (node[0].text(), node[1].int(), node[2].text()),
        ("redis.example".to_owned(), 7000, id.clone())
    );
    let line = ask(&mut client, "NODES").text();
    assert!(
        line.contains(&format!("{id} redis.example:7000@0,redis.example myself,master ")),
        "{line}"
    );
    let shard = ask(&mut client, "SHARDS").items()[0]
        .field("nodes")
        .unwrap()
        .items()[0]
        .clone();
    assert_eq!(shard.field("hostname").unwrap().text(), "redis.example");
    let store = proxy.store.clone();
    assert!(proxy.stop().success());
    let again = proxy.setup.clone().store(&store);
    assert_eq!(ask(&mut again.start().client(), "MYID").text(), id);
}

#[test]
fn without_it_nothing_is_said_of_a_cluster() {
    let nodes = [Node::start()];
    let proxy = Setup::of(&[nodes[0].address()]).start();
    let mut client = proxy.client3();
    for command in [
        "CLUSTER SLOTS",
        "CLUSTER KEYSLOT a",
        "CLUSTER HELP",
        "READONLY",
        "ASKING",
    ] {
        client
            .ask(command)
            .expect_error("ERR This instance has cluster support disabled");
    }
    assert_eq!(client.ask("HELLO 3").field("mode").unwrap().text(), "standalone");
    assert!(client.ask("INFO").text().contains("cluster_enabled:0"));
    assert!(client.ask("INFO").text().contains("redis_mode:standalone"));
}

#[test]
fn slots_of_a_lost_node_are_told_as_failing() {
    let mut nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]).proxy("cluster_emulation = true");
    let proxy = setup.announce(&["node_down", "link_lost", "link_down"]).start();
    let mut client = proxy.client();
    assert!(
        client
            .ask("CLUSTER INFO")
            .text()
            .contains("cluster_slots_ok:16384")
    );
    nodes[1].kill();
    wait_until("half of the slots fail", PATIENCE, || {
        let told = client.ask("CLUSTER INFO").text();
        told.contains("cluster_slots_fail:8192") && told.contains("cluster_state:ok")
    });
    nodes[0].kill();
    wait_until("all slots fail", PATIENCE, || {
        client.ask("CLUSTER INFO").text().contains("cluster_state:fail")
    });
}

#[test]
fn redis_py_cluster_works() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = emulating(&[]);
    run_script(python(), "redis_py_cluster.py", &proxy);
}

#[test]
fn valkey_glide_cluster_works() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = emulating(&[]);
    run_script(python(), "glide_cluster.py", &proxy);
}

#[test]
fn ioredis_cluster_works() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = emulating(&[]);
    run_script(node_js(), "ioredis_cluster.cjs", &proxy);
}

#[test]
fn node_redis_cluster_works() {
    if lacks("shard channels") {
        return;
    }
    let (_nodes, proxy) = emulating(&[]);
    run_script(node_js(), "node_redis_cluster.cjs", &proxy);
}

#[test]
fn redis_rs_cluster_works() {
    use redis::Commands as _;
    let (_nodes, proxy) = emulating(&[]);
    for query in ["", "?protocol=resp3"] {
        let url = format!("redis://127.0.0.1:{}/{query}", proxy.data.port());
        let builder = redis::cluster::ClusterClient::builder(vec![url]).connection_timeout(PATIENCE);
        let client = builder.build().unwrap();
        let mut connection = client.get_connection().unwrap();
        let keys: Vec<String> = (0..100).map(|number| format!("rc:{number}")).collect();
        for key in &keys {
            let _: () = connection.set(key, key).unwrap();
        }
        // redis-rs splits by slot itself.
        let values: Vec<String> = connection.mget(&keys).unwrap();
        assert_eq!(values, keys);
        let mut pipe = redis::cluster::cluster_pipe();
        pipe.set("rc:a", 1).ignore().incr("rc:b", 5);
        let (b,): (i64,) = pipe.query(&mut connection).unwrap();
        assert_eq!(b, 5);
        let two: i64 = redis::Script::new("return 2 * redis.call('GET', KEYS[1])")
            .key("rc:a")
            .invoke(&mut connection)
            .unwrap();
        assert_eq!(two, 2);
        let gone: i64 = connection.del(&keys).unwrap();
        assert_eq!(gone, 100);
        let gone: i64 = connection.del(&["rc:a", "rc:b"]).unwrap();
        assert_eq!(gone, 2);
    }
}
