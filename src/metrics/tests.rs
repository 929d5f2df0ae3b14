//! The exposition as a scraper sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::families;
use super::family::Kind;
use super::*;
use crate::ids::{DbIndex, Epoch, NodeIndex, ShardId};
use crate::topology::{Address, Node, Placement, Topology};

fn metrics() -> Metrics {
    let options = MetricsOptions {
        workers: 2,
        command_names: vec!["get", "config|get", "set"],
        shards: 3,
        max_clients: 10_000,
    };
    let metrics = Metrics::new(options).unwrap();
    let users = || vec![("default".to_owned(), 3)];
    metrics.facts().set_user_clients(users);
    metrics.set_assignment(Assignment {
        epoch: Epoch(7),
        nodes: vec!["redis-1".to_owned(), "redis-2".to_owned()],
        provisioned: BTreeSet::new(),
        shards: vec![
            (ShardId(0), 0, DbIndex(0)),
            (ShardId(1), 0, DbIndex(1)),
            (ShardId(2), 1, DbIndex(2)),
        ],
    });
    metrics
}

fn value(text: &str, series: &str) -> f64 {
    let row = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    row.unwrap_or_else(|| panic!("no row {series} in\n{text}"))
        .parse()
        .unwrap()
}

#[test]
fn every_family_is_there_from_the_first_scrape() {
    let metrics = metrics();
    metrics
        .facts()
        .set_certificate_end(Certificate::Listeners, Some(2_524_608_000));
    let text = metrics.gather_text();
    for family in families() {
        let kind = format!("{:?}", family.kind).to_lowercase();
        let needs_probe = family.name == "preshard_shard_keys";
        let needs_proc = family.name.starts_with("process_") && !cfg!(target_os = "linux");
        let there = text.contains(&format!("# TYPE {} {kind}\n", family.name));
        assert!(there || needs_probe || needs_proc, "{} is missing", family.name);
    }
    assert_eq!(value(&text, r#"preshard_requests_total{command="other"}"#), 0.0);
    assert_eq!(
        value(
            &text,
            r#"preshard_request_errors_total{origin="node",code="OOM"}"#
        ),
        0.0
    );
    assert_eq!(value(&text, r#"preshard_node_up{node="redis-2"}"#), 0.0);
    assert_eq!(
        value(
            &text,
            r#"preshard_shard_assignment{shard="2",node="redis-2",db="db2"}"#
        ),
        1.0
    );
    assert_eq!(value(&text, "preshard_topology_epoch"), 7.0);
    let ends = r#"preshard_tls_certificate_expiry_timestamp_seconds{certificate="listeners"}"#;
    assert_eq!(value(&text, ends), 2_524_608_000.0);
    assert!(
        !text.contains(r#"certificate="nodes""#),
        "there is no such certificate"
    );
    assert!(
        !text.contains("command=\"get\""),
        "untouched commands have no row"
    );
}

#[test]
fn names_follow_the_rules() {
    for family in families() {
        let name = family.name;
        assert!(
            name.starts_with("preshard_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            family.kind == Kind::Counter,
            "{name}: _total is for counters"
        );
        assert!(
            family.kind != Kind::Histogram || name.ends_with("_seconds"),
            "{name}"
        );
        assert!(family.help.ends_with('.'), "{name}: the help is a sentence");
    }
}

#[test]
fn a_scrape_adds_the_workers_up() {
    let metrics = metrics();
    for (number, requests) in [(0, 5), (1, 37)] {
        let worker = metrics.worker(number);
        worker.requests.add(0, requests);
        worker.shard_request(ShardId(1), 20);
        worker.client_connections[Wire::Resp3].add(2);
        worker.error(Origin::Node, ErrorCode::of(b"-OOM command not allowed\r\n"));
        worker.request_duration[RequestClass::Read].observe(70);
        let node = worker.node("redis-1");
        node.up.set(1);
        node.in_flight.add(3);
        node.duration.observe(2_000_000);
    }
    metrics.control().connections_total.add_shared(4);
    metrics.worker(0).unsupported.add(usize::MAX, 1);
    let text = metrics.gather_text();
    assert_eq!(value(&text, r#"preshard_requests_total{command="get"}"#), 42.0);
    assert_eq!(
        value(&text, r#"preshard_unsupported_commands_total{command="other"}"#),
        1.0
    );
    assert_eq!(
        value(&text, r#"preshard_shard_request_bytes_total{shard="1"}"#),
        40.0
    );
    assert_eq!(
        value(&text, r#"preshard_client_connections{protocol="resp3"}"#),
        4.0
    );
    assert_eq!(value(&text, "preshard_client_connections_total"), 4.0);
    assert_eq!(
        value(
            &text,
            r#"preshard_request_errors_total{origin="node",code="OOM"}"#
        ),
        2.0
    );
    assert_eq!(value(&text, r#"preshard_worker_connections{worker="1"}"#), 2.0);
    assert_eq!(value(&text, r#"preshard_node_up{node="redis-1"}"#), 1.0);
    assert_eq!(
        value(&text, r#"preshard_node_inflight_requests{node="redis-1"}"#),
        6.0
    );
    let bucket =
        |bound: &str| format!(r#"preshard_request_duration_seconds_bucket{{class="read",le="{bound}"}}"#);
    assert_eq!(value(&text, &bucket("0.00005")), 0.0);
    assert_eq!(value(&text, &bucket("0.0001")), 2.0);
    assert_eq!(value(&text, &bucket("+Inf")), 2.0);
    assert_eq!(
        value(&text, r#"preshard_request_duration_seconds_sum{class="read"}"#),
        0.00014
    );
    let slow = r#"preshard_backend_duration_seconds_bucket{node="redis-1",le="1.6384"}"#;
    assert_eq!(value(&text, slow), 0.0);
    assert_eq!(
        value(
            &text,
            r#"preshard_backend_duration_seconds_count{node="redis-1"}"#
        ),
        2.0
    );
}

#[test]
fn sums_for_info_agree_with_the_cells() {
    let metrics = metrics();
    let worker = metrics.worker(1);
    worker.requests.add(1, 2);
    worker.requests.add(usize::MAX, 1);
    worker.error(Origin::Proxy, ErrorCode::CrossSlot);
    worker.client_connections[Wire::Resp2].add(1);
    worker.shard_request(ShardId(2), 9);
    worker.node("redis-2").up.set(1);
    assert_eq!(metrics.command_calls(), [("config|get", 2)]);
    assert_eq!(metrics.error_codes(), [("CROSSSLOT", 1)]);
    let totals = metrics.totals();
    assert_eq!(
        (totals.requests, totals.errors, totals.client_connections),
        (3, 1, 1)
    );
    assert_eq!(metrics.clients_by_worker(), [0, 1]);
    assert_eq!(metrics.shard_totals(ShardId(2)).request_bytes, 9);
    assert_eq!(metrics.nodes_up(), 1);
    assert!(metrics.node_totals("redis-2").up && !metrics.node_totals("redis-1").up);
}

#[test]
fn rows_of_a_node_leave_with_the_node() {
    let metrics = metrics();
    metrics.worker(0).node("redis-2").connects.inc();
    metrics.facts().set_node(
        "redis-2",
        NodeFacts {
            version: "7.0.15".to_owned(),
            ..NodeFacts::default()
        },
    );
    metrics.facts().set_node("stranger", NodeFacts::default());
    metrics.node_came_back_empty("redis-2");
    metrics.facts().set_shard_keys(ShardId(1), 12);
    metrics.facts().set_shard_keys(ShardId(999), 12);
    let text = metrics.gather_text();
    assert_eq!(
        value(&text, r#"preshard_node_info{node="redis-2",version="7.0.15"}"#),
        1.0
    );
    assert_eq!(value(&text, r#"preshard_shard_keys{shard="1"}"#), 12.0);
    assert!(!text.contains("stranger"));
    let nodes = vec!["redis-1".to_owned()];
    metrics.set_assignment(Assignment {
        epoch: Epoch(8),
        nodes,
        provisioned: BTreeSet::new(),
        shards: vec![(ShardId(0), 0, DbIndex(0))],
    });
    let text = metrics.gather_text();
    assert!(!text.contains("redis-2"), "{text}");
    assert!(metrics.facts().node("redis-2").is_none());
}

#[test]
fn a_node_name_cannot_break_a_line() {
    let metrics = metrics();
    let nodes = vec!["a\"b\\c\nd".to_owned()];
    metrics.set_assignment(Assignment {
        epoch: Epoch(8),
        nodes,
        provisioned: BTreeSet::new(),
        shards: Vec::new(),
    });
    assert!(
        metrics
            .gather_text()
            .contains(r#"preshard_node_up{node="a\"b\\c\nd"} 0"#)
    );
}

#[test]
fn a_scrape_of_a_full_topology_is_complete_and_of_bounded_size() {
    let options = MetricsOptions {
        workers: 4,
        command_names: vec!["get"],
        shards: 1039,
        max_clients: 1,
    };
    let metrics = Metrics::new(options).unwrap();
    let shards: Vec<_> = (0..1039)
        .map(|n| (ShardId(n), usize::from(n % 2), DbIndex(n)))
        .collect();
    let nodes = vec!["redis-1".to_owned(), "redis-2".to_owned()];
    metrics.set_assignment(Assignment {
        epoch: Epoch(1),
        nodes,
        provisioned: BTreeSet::new(),
        shards,
    });
    let text = metrics.gather_text();
    assert_eq!(text.matches("\npreshard_shard_requests_total{").count(), 1039);
    assert_eq!(text.matches("\npreshard_shard_assignment{").count(), 1039);
    assert!(text.len() < 512 * 1024, "{}", text.len());
}

#[test]
fn an_assignment_is_read_off_a_topology() {
    let node = |name: &str, port| Node {
        name: name.to_owned(),
        address: Address::Tcp {
            host: "h".to_owned(),
            port,
        },
    };
    let placement = |node, db| Placement {
        node: NodeIndex(node),
        db: DbIndex(db),
    };
    let topology = Topology {
        cluster_id: "c".to_owned(),
        epoch: Epoch(3),
        shards: 2,
        pinned: 1,
        nodes: vec![node("a", 1), node("b", 2)],
        retired: BTreeSet::new(),
        paused: BTreeSet::new(),
        access: BTreeMap::new(),
        units: Vec::new(),
        placements: vec![placement(1, 0), placement(0, 1), placement(1, 9)],
    };
    let assignment = Assignment::from(&topology);
    assert_eq!(
        (assignment.epoch, assignment.nodes),
        (Epoch(3), vec!["a".to_owned(), "b".to_owned()])
    );
    let expected = [
        (ShardId(0), 1, DbIndex(0)),
        (ShardId(1), 0, DbIndex(1)),
        (ShardId(2), 1, DbIndex(9)),
    ];
    assert_eq!(assignment.shards, expected);
}
