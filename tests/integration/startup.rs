//! What must hold before a proxy serves: enough databases, an honest config, a map that is not older than the nodes'.

use crate::harness::{Node, NodeOptions, Reply, Scratch, Setup, run_to_end};

#[test]
fn nodes_with_too_few_databases_are_named_with_the_line_to_change() {
    let node = Node::start();
    let (status, said) = Setup::of(&[node.address()]).layout(1024, 15).start_refused();
    assert!(!status.success());
    for part in ["databases 1040", "redis.conf", &node.address()] {
        assert!(said.contains(part), "no '{part}' in:\n{said}");
    }
    assert!(node.all_keys(16).is_empty(), "nothing was written to the node");
}

#[test]
fn every_mistake_of_a_config_is_told_at_once_with_its_line() {
    let dir = Scratch::new("config");
    let file = dir.file("bad.toml");
    let text = "[proxy]\nlisten = \"127.0.0.1:0\"\nworkerz = 2\nmax_clients = -5\n\n[topology]\nstore = \"file:t.json\"\nshards = 1000\n\
                [[topology.nodes]]\nname = \"a\"\naddress = \"nowhere\"\n";
    std::fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    for command in ["check", "serve"] {
        let (status, said) = run_to_end(&[command, "--config", &path]);
        assert_eq!(status.code(), Some(2), "{command} said:\n{said}");
        for (line, word) in [(3, "workerz"), (4, "max_clients"), (8, "shards"), (11, "address")] {
            let place = format!("bad.toml:{line}:");
            assert!(
                said.lines().any(|told| told.contains(&place)),
                "{command}: nothing said about line {line} ({word}) in:\n{said}"
            );
        }
    }
}

#[test]
fn a_good_config_passes_check() {
    let dir = Scratch::new("config");
    let file = dir.file("good.toml");
    let text = "[topology]\nstore = \"file:t.json\"\nshards = 8\npinned = 4\n[[topology.nodes]]\nname = \"a\"\naddress = \"127.0.0.1:7001\"\n";
    std::fs::write(&file, text).unwrap();
    let (status, said) = run_to_end(&["check", "--config", &file.display().to_string()]);
    assert!(status.success(), "{said}");
}

#[test]
fn a_config_that_is_not_there_is_an_error_with_its_name() {
    let (status, said) = run_to_end(&["serve", "--config", "/nonexistent/preshard.toml"]);
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("/nonexistent/preshard.toml"), "{said}");
}

#[test]
fn a_node_in_cluster_mode_is_refused() {
    let more = vec!["--cluster-enabled".to_owned(), "yes".to_owned()];
    let node = Node::with(NodeOptions {
        more,
        ..NodeOptions::default()
    });
    let (status, said) = Setup::of(&[node.address()]).start_refused();
    assert!(!status.success());
    assert!(said.contains("cluster"), "no word about cluster mode in:\n{said}");
    assert!(said.contains(&node.address()), "{said}");
}

#[test]
fn a_lost_store_is_never_seeded_over_nodes_that_carry_a_mark() {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let mut proxy = setup.start();
    proxy.client().ask("SET k v").expect_ok();
    assert!(proxy.stop().success());
    // Another folder: an empty store beside nodes that belong to a cluster already.
    let (status, said) = setup.start_refused();
    assert!(!status.success());
    assert!(
        said.contains("TOPOLOGY LOAD") || said.contains("restore"),
        "no way out in:\n{said}"
    );
    // With its own store it starts again and finds its data.
    let proxy = setup.store(&proxy.store).start();
    assert_eq!(proxy.client().ask("GET k"), Reply::from("v"));
}

#[test]
fn a_store_older_than_the_nodes_mark_is_refused() {
    let node = Node::start();
    let setup = Setup::of(&[node.address()]);
    let mut proxy = setup.start();
    assert!(proxy.stop().success());
    // The node has seen a later epoch than the store holds.
    let mut metadata = node.client_in(setup.metadata_database());
    let mark = metadata.ask("GET preshard:mark").text();
    let (head, tail) = mark
        .split_once("\"epoch\":")
        .unwrap_or_else(|| panic!("no epoch in the node's mark: {mark}"));
    let later = format!(
        "{head}\"epoch\":4000000{}",
        tail.trim_start_matches(|digit: char| digit.is_ascii_digit())
    );
    metadata.call(&["SET", "preshard:mark", &later]).expect_ok();
    let (status, said) = setup.store(&proxy.store).start_refused();
    assert!(!status.success());
    assert!(said.contains("epoch") && said.contains("4000000"), "{said}");
}

#[test]
fn a_second_proxy_on_the_same_file_store_is_refused() {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let first = setup.start();
    let (status, said) = setup.clone().store(&first.store).start_refused();
    assert!(!status.success());
    assert!(
        said.contains(&first.store),
        "the store's path is not named in:\n{said}"
    );
    first.assert_alive("a second proxy on its store");
}

#[test]
fn a_restart_without_changes_keeps_the_topology_byte_by_byte() {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    let mut proxy = setup.start();
    let dump = proxy.admin_client().ask("PRESHARD TOPOLOGY DUMP");
    assert!(matches!(dump, Reply::Bulk(_)), "{dump:?}");
    proxy.client().ask("SET k v").expect_ok();
    assert!(proxy.stop().success());
    let again = setup.store(&proxy.store).start();
    assert_eq!(again.admin_client().ask("PRESHARD TOPOLOGY DUMP"), dump);
    assert_eq!(again.client().ask("GET k"), Reply::from("v"));
}

#[test]
fn health_and_metrics_are_served_from_the_first_moment() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    assert_eq!(proxy.http_get("/healthz").0, 200);
    assert_eq!(proxy.http_get("/readyz").0, 200);
    assert_eq!(proxy.http_get("/nosuch").0, 404);
    let (status, body) = proxy.http_get("/metrics");
    assert_eq!(status, 200);
    assert!(body.lines().any(|line| line.starts_with("preshard_")), "{body}");
    let (status, body) = proxy.http_get("/topology");
    assert_eq!(status, 200);
    assert!(
        body.trim_start().starts_with('{') && body.contains(&nodes[0].address()),
        "{body}"
    );
}
