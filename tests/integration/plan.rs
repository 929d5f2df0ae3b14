//! `PRESHARD PLAN`: plans over real nodes, by keys, by memory and by load. Nothing moves.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, key_in, run_to_end, small, wait_for, wait_until,
};

/// The keys of a shard, straight into its database.
fn fill(node: &Node, shard: u16, keys: usize, value_bytes: usize) {
    let mut client = node.client_in(u32::from(shard));
    let value = "v".repeat(value_bytes);
    for key in 0..keys {
        client.command(&["SET", &format!("k{key}"), &value]);
    }
    (0..keys).for_each(|_| client.reply().expect_ok());
}

/// Waits until the probes have seen as many keys.
fn until_seen(admin: &mut Client, keys: i64) {
    wait_until("the probes see all keys", PATIENCE, || {
        let shards = admin.ask("PRESHARD SHOW SHARDS").items();
        let seen = shards.iter().map(|row| match row.field("keys").unwrap() {
            Reply::Null => 0,
            keys => keys.int(),
        });
        seen.sum::<i64>() == keys
    });
}

fn admin3(proxy: &Proxy) -> Client {
    let mut admin = proxy.admin_client();
    admin.ask("HELLO 3");
    admin
}

fn table(plan: &Reply, name: &str) -> Vec<Reply> {
    plan.field(name)
        .unwrap_or_else(|| panic!("no {name}: {plan:?}"))
        .items()
}

fn numbers(plan: &Reply, table_name: &str, column: &str) -> Vec<i64> {
    let rows = table(plan, table_name);
    rows.iter().map(|row| row.field(column).unwrap().int()).collect()
}

/// Whether all are within 5 % of their mean.
fn is_even(loads: &[i64]) -> bool {
    let (total, count) = (loads.iter().sum::<i64>(), loads.len() as i64);
    loads
        .iter()
        .all(|load| (load * count - total).abs() * 100 <= total * 5)
}

/// The loads that nodes would have, computed here out of the moves.
fn moved(plan: &Reply, column: &str) -> Vec<i64> {
    let mut held = numbers(plan, "before", column);
    let names: Vec<String> = table(plan, "before")
        .iter()
        .map(|row| row.field("node").unwrap().text())
        .collect();
    let place = |row: &Reply, end: &str| {
        let name = row.field(end).unwrap().text();
        names.iter().position(|node| *node == name).unwrap()
    };
    for row in table(plan, "moves") {
        let load = row.field(column).unwrap().int();
        held[place(&row, "source")] -= load;
        held[place(&row, "target")] += load;
    }
    held
}

#[test]
fn a_skewed_cluster_is_planned_even_by_keys_and_nothing_moves() {
    let (nodes, proxy) = small();
    // Shards 0 to 3 are the first node's, which holds four times as much.
    for shard in 0..4 {
        fill(&nodes[0], shard, 400, 10);
        fill(&nodes[1], shard + 4, 100, 10);
    }
    let mut admin = admin3(&proxy);
    until_seen(&mut admin, 2000);
    let dump = admin.ask("PRESHARD TOPOLOGY DUMP").text();
    let plan = admin.ask("PRESHARD PLAN REBALANCE BY keys");
    assert_eq!(numbers(&plan, "before", "keys"), [1600, 400]);
    let after = numbers(&plan, "after", "keys");
    assert_eq!(after, moved(&plan, "keys"));
    assert_eq!(after, [1000, 1000], "two of 400 there, two of 100 back");
    assert_eq!(table(&plan, "moves").len(), 4, "{plan:?}");
    // A shard more to choose from, and fewer moves do: 400 and 400 there, 100 back.
    fill(&nodes[0], 8, 200, 10);
    until_seen(&mut admin, 2200);
    let plan = admin.ask("PRESHARD PLAN REBALANCE");
    assert!(is_even(&numbers(&plan, "after", "keys")), "{plan:?}");
    let moves = table(&plan, "moves");
    assert_eq!(moves.len(), 3, "{plan:?}");
    for row in &moves {
        assert!(
            row.field("reason").unwrap().text().contains("the mean"),
            "{row:?}"
        );
    }
    let id = plan.field("id").unwrap().text();
    let epoch = admin.ask("PRESHARD TOPOLOGY EPOCH").int();
    assert!(id.starts_with(&format!("e{epoch}-")), "{id}");
    assert_eq!(admin.call(&["PRESHARD", "PLAN", "SHOW", &id]), plan);
    assert_eq!(admin.ask("PRESHARD TOPOLOGY DUMP").text(), dump);
    assert_eq!(
        numbers(&admin.ask("PRESHARD PLAN REBALANCE"), "before", "keys"),
        [1800, 400]
    );
}

#[test]
fn people_and_machines_can_read_a_plan() {
    let (nodes, proxy) = small();
    for shard in 0..4 {
        fill(&nodes[0], shard, 40, 10);
    }
    let mut admin = admin3(&proxy);
    until_seen(&mut admin, 160);
    let address = admin.stream().peer_addr().unwrap().to_string();
    let (status, printed) = run_to_end(&["admin", "--addr", &address, "PLAN", "REBALANCE"]);
    assert!(status.success(), "{printed}");
    for line in [
        "by:    keys",
        "before\nnode    shards  keys  percent  used_memory\n",
        "node-1       6   160      200",
        "moves\nshard  source  target  keys  reason\n",
        "    2  node-1  node-2    40  node-1 is 100 % above the mean, node-2 100 % below the mean; then 50 % above",
    ] {
        assert!(printed.contains(line), "{line}:\n{printed}");
    }
    let (status, json) = run_to_end(&["admin", "--addr", &address, "--json", "PLAN", "REBALANCE"]);
    assert!(status.success(), "{json}");
    assert!(
        json.contains("\"percent\": 200.0") && json.contains("\"moves\": ["),
        "{json}"
    );
}

#[test]
fn a_plan_by_memory_goes_by_the_size_of_values() {
    let (nodes, proxy) = small();
    // As many keys everywhere; those of the first node are large.
    for shard in 0..4 {
        fill(&nodes[0], shard, 50, 10_000);
        fill(&nodes[1], shard + 4, 50, 100);
    }
    // And a pinned database.
    fill(&nodes[1], 9, 20, 10);
    let mut admin = admin3(&proxy);
    until_seen(&mut admin, 420);
    let by_keys = admin.ask("PRESHARD PLAN REBALANCE BY keys");
    assert!(table(&by_keys, "moves").is_empty(), "{by_keys:?}");
    let plan = admin.ask("PRESHARD PLAN REBALANCE BY memory");
    let before = numbers(&plan, "before", "memory");
    assert!((2_000_000..2_600_000).contains(&before[0]), "{plan:?}");
    assert!((20_000..70_000).contains(&before[1]), "{plan:?}");
    let after = numbers(&plan, "after", "memory");
    assert_eq!(after, moved(&plan, "memory"));
    assert!(is_even(&after), "{plan:?}");
    let moves = table(&plan, "moves");
    assert_eq!(moves.len(), 2, "{plan:?}");
    for row in &moves {
        assert_eq!(row.field("samples").unwrap().int(), 20);
        assert_eq!(row.field("keys").unwrap().int(), 50);
        let reason = row.field("reason").unwrap().text();
        assert!(
            reason.ends_with("; memory is estimated out of 20 keys"),
            "{reason}"
        );
    }
    let note = plan.field("note").unwrap().text();
    assert!(
        note.starts_with("memory is an estimate out of 180 sampled keys"),
        "{note}"
    );
    assert!(numbers(&plan, "before", "used_memory")[0] > before[0]);
}

#[test]
fn a_plan_by_ops_goes_by_the_load() {
    let (_nodes, proxy) = small();
    let mut client = proxy.client();
    let mut admin = admin3(&proxy);
    let keys: Vec<String> = (0..4).map(|shard| key_in(shard, 8, "k")).collect();
    let plan = wait_for("the load is seen", PATIENCE, || {
        // Four shards of the first node, the same load on each.
        for _ in 0..500 {
            keys.iter().for_each(|key| client.command(&["INCR", key]));
        }
        (0..2000).for_each(|_| drop(client.reply()));
        let plan = admin.ask("PRESHARD PLAN REBALANCE BY ops");
        let settled = plan.error().is_none() && numbers(&plan, "before", "ops")[0] > 1000;
        settled.then_some(plan)
    });
    assert_eq!(numbers(&plan, "before", "ops")[1], 0);
    assert_eq!(numbers(&plan, "after", "ops"), moved(&plan, "ops"));
    assert_eq!(table(&plan, "moves").len(), 2, "{plan:?}");
    assert!(is_even(&numbers(&plan, "after", "ops")), "{plan:?}");
    let note = plan.field("note").unwrap().text();
    assert!(note.contains("of this proxy over the last 10 seconds"), "{note}");
}

#[test]
fn a_node_that_stands_still_fails_the_plan_and_nobody_else_waits() {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    // That is how long the node is waited for.
    let proxy = setup.nodes("connect_timeout = \"3s\"").start();
    fill(&nodes[0], 0, 50, 10);
    fill(&nodes[1], 4, 50, 10);
    let (mut admin, mut other) = (admin3(&proxy), admin3(&proxy));
    until_seen(&mut admin, 100);
    let epoch = other.ask("PRESHARD TOPOLOGY EPOCH");
    nodes[1].freeze();
    admin.command(&["PRESHARD", "PLAN", "REBALANCE", "BY", "memory"]);
    wait_until("the other node is sampled", PATIENCE, || {
        nodes[0].calls_of("randomkey") > 0
    });
    assert_eq!(other.ask("PRESHARD TOPOLOGY EPOCH"), epoch);
    other
        .ask("PRESHARD PLAN REBALANCE")
        .expect_error("ERR another plan is being made");
    let failed = admin.reply();
    let line = failed.expect_error("ERR node node-2 does not tell how much memory its keys take: ");
    assert!(line.contains("no answer within 3s"), "{line}");
    nodes[1].thaw();
    wait_until("a plan can be made again", PATIENCE, || {
        let plan = admin.ask("PRESHARD PLAN REBALANCE BY memory");
        plan.error().is_none() && !plan.field("note").unwrap().text().contains("left out")
    });
}

#[test]
fn a_node_that_keeps_its_sizes_to_itself_is_told_of() {
    let options = NodeOptions {
        more: ["--rename-command", "MEMORY", ""].map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    };
    let nodes = [Node::with(options), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    fill(&nodes[0], 0, 5, 10);
    let mut admin = admin3(&proxy);
    until_seen(&mut admin, 5);
    admin.ask("PRESHARD PLAN REBALANCE BY memory").expect_error(
        "ERR node node-1 does not tell how much memory its keys take: it answered: ERR unknown command",
    );
    assert!(admin.ask("PRESHARD PLAN REBALANCE BY keys").error().is_none());
}

#[test]
fn a_thousand_shards_are_sampled_in_a_few_seconds() {
    let options = NodeOptions {
        databases: 1040,
        ..NodeOptions::default()
    };
    let nodes = [Node::with(options.clone()), Node::with(options)];
    let addresses = [nodes[0].address(), nodes[1].address()];
    let proxy = Setup::of(&addresses).layout(1024, 15).start();
    // Every shard holds something, those of the first node twice as much.
    for (node, first) in nodes.iter().zip([0_u16, 512]) {
        let mut client = node.client();
        let keys = if first == 0 { 60 } else { 30 };
        for shard in first..first + 512 {
            client.command(&["SELECT", &shard.to_string()]);
            (0..keys).for_each(|key| client.command(&["SET", &format!("k{key}"), "value"]));
            (0..=keys).for_each(|_| client.reply().expect_ok());
        }
    }
    let mut admin = admin3(&proxy);
    until_seen(&mut admin, 512 * 90);
    for by in ["keys", "memory"] {
        // On a busy machine the time for it may be over before all shards are reached.
        let (plan, took) = wait_for("all shards are reached", PATIENCE, || {
            let begin = Instant::now();
            let plan = admin.call(&["PRESHARD", "PLAN", "REBALANCE", "BY", by]);
            let is_whole = !plan.field("note").unwrap().text().contains("not reached");
            is_whole.then(|| (plan, begin.elapsed()))
        });
        println!(
            "1,024 shards by {by}: {} moves in {took:?}",
            table(&plan, "moves").len()
        );
        assert!(is_even(&numbers(&plan, "after", by)), "{by}");
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}
