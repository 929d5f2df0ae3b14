//! `PRESHARD PLAN`, asked of a proxy without sockets: what a plan is made of, how it is kept, when it is stale.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::AdminContext;
use crate::admin::plans::PLANS_MAX;
use crate::admin::testing::{ask, columns, context, error, fields, rows, text};
use crate::ids::{Epoch, ShardId};
use crate::resp::Value;
use crate::topology::Topology;
use crate::worker::shared::{NodeView, NodesView};

/// Two nodes that are up. `keys` by shard: 0 to 3, 8 and 10 are on node a, the others on b.
fn with_keys(keys: [u64; 12]) -> AdminContext {
    let context = context("");
    let up = NodeView {
        up: true,
        used_memory: 5000,
        ..NodeView::default()
    };
    let nodes = vec![up.clone(), up];
    context.shared.nodes.store(Arc::new(NodesView { nodes }));
    for (shard, keys) in (0..).zip(keys) {
        context
            .shared
            .metrics
            .facts()
            .set_shard_keys(ShardId(shard), keys);
    }
    context
}

fn field(answer: &Value, name: &str) -> Value {
    let Value::Map(pairs) = answer else {
        panic!("{answer:?}")
    };
    let found = pairs.iter().find(|(field, _)| text(field) == name);
    found.unwrap_or_else(|| panic!("no {name}: {answer:?}")).1.clone()
}

fn told(answer: &Value, name: &str) -> String {
    text(&field(answer, name))
}

const SKEWED: [u64; 12] = [300, 200, 200, 100, 50, 50, 50, 50, 0, 0, 0, 0];

#[tokio::test]
async fn a_plan_tells_what_moves_what_comes_of_it_and_why() {
    let context = with_keys(SKEWED);
    let plan = ask(&context, "PLAN REBALANCE").await;
    assert_eq!(
        columns(&plan),
        ["id", "by", "epoch", "state", "note", "before", "after", "moves"]
    );
    assert_eq!(
        (told(&plan, "id"), told(&plan, "by"), told(&plan, "state")),
        ("e1-f00-1".to_owned(), "keys".to_owned(), "current".to_owned())
    );
    let before = rows(&field(&plan, "before"));
    let expected = [
        ("keys", "800"),
        ("node", "a"),
        ("percent", "160.0"),
        ("shards", "6"),
        ("used_memory", "5000"),
    ];
    let first = |name: &str| match field(&plan, name) {
        Value::Array(rows) => rows[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&first("before"), "percent"), Value::Double(160.0));
    for (name, value) in expected.iter().filter(|(name, _)| *name != "percent") {
        assert_eq!(before[0][*name], *value);
    }
    assert_eq!(
        columns(&first("moves")),
        ["shard", "source", "target", "keys", "reason"]
    );
    let moves = rows(&field(&plan, "moves"));
    assert_eq!(moves.len(), 1);
    assert_eq!(
        (
            moves[0]["shard"].as_str(),
            moves[0]["source"].as_str(),
            moves[0]["target"].as_str()
        ),
        ("0", "a", "b")
    );
    assert_eq!(
        moves[0]["reason"],
        "a is 60 % above the mean, b 60 % below the mean; then both are at the mean"
    );
    assert_eq!(rows(&field(&plan, "after"))[1]["keys"], "500");
    // Shown again it is the same; nothing has moved.
    assert_eq!(ask(&context, "PLAN SHOW e1-f00-1").await, plan);
    assert_eq!(ask(&context, "TOPOLOGY EPOCH").await, Value::Int(1));
    let refused = ask(&context, "PLAN APPLY e1-f00-1").await;
    let why = "ERR plan 'e1-f00-1' is not carried out: node 'a' has no users of preshard";
    assert!(error(&refused).starts_with(why), "{refused:?}");
}

#[tokio::test]
async fn a_plan_by_ops_goes_by_the_rates() {
    let context = with_keys([1; 12]);
    let cells = context.shared.metrics.worker(0);
    context
        .rates
        .sample(&context.shared, Instant::now() - Duration::from_secs(10));
    for shard in 0..4 {
        for _ in 0..10_000 {
            cells.shard_request(ShardId(shard), 1);
        }
    }
    let plan = ask(&context, "plan rebalance by OPS").await;
    assert!(told(&plan, "note").starts_with("ops are the requests a second of this proxy"));
    let moves = rows(&field(&plan, "moves"));
    assert_eq!(moves.len(), 2, "{plan:?}");
    for planned in &moves {
        assert!((990..=1000).contains(&planned["ops"].parse::<u64>().unwrap()));
        assert_eq!((planned["keys"].as_str(), planned["source"].as_str()), ("1", "a"));
    }
}

#[tokio::test]
async fn what_cannot_be_planned_is_told() {
    let context = with_keys(SKEWED);
    for (words, expected) in [
        (
            "PLAN REBALANCE keys",
            "ERR unknown option 'keys': give BY and one of keys, ops, memory",
        ),
        ("PLAN REBALANCE BY", "ERR BY wants one of keys, ops, memory"),
        (
            "PLAN REBALANCE BY size",
            "ERR a plan cannot be made by 'size': give one of keys, ops, memory",
        ),
        ("PLAN REBALANCE BY keys now", "ERR wrong number of arguments"),
        ("PLAN SHOW", "ERR wrong number of arguments"),
        ("PLAN SHOW e1-f00-1", "ERR there is no plan 'e1-f00-1' here"),
        ("PLAN SHOW 7", "ERR there is no plan '7' here"),
        (
            "PLAN REBALANCE BY memory",
            "ERR node a does not tell how much memory its keys take: No such file",
        ),
    ] {
        let value = ask(&context, words).await;
        assert!(error(&value).starts_with(expected), "{words}: {value:?}");
    }
    let fresh = super::context("");
    let up = NodeView {
        up: true,
        ..NodeView::default()
    };
    fresh.shared.nodes.store(Arc::new(NodesView {
        nodes: vec![up.clone(), up],
    }));
    assert_eq!(
        error(&ask(&fresh, "PLAN REBALANCE").await),
        "ERR the keys of node a are not known yet; ask again in a second"
    );
}

#[tokio::test]
async fn a_node_that_is_down_is_left_out() {
    let context = with_keys(SKEWED);
    let mut nodes = (*context.shared.nodes.load_full()).clone();
    nodes.nodes[1].up = false;
    context.shared.nodes.store(Arc::new(nodes));
    let plan = ask(&context, "PLAN REBALANCE").await;
    assert_eq!(field(&plan, "moves"), Value::Array(Vec::new()));
    assert!(
        told(&plan, "note").contains("b does not answer and is left out"),
        "{plan:?}"
    );
}

#[tokio::test]
async fn maxmemory_keeps_shards_away() {
    let context = with_keys(SKEWED);
    let mut nodes = (*context.shared.nodes.load_full()).clone();
    nodes.nodes[1].maxmemory = 5001;
    context.shared.nodes.store(Arc::new(nodes));
    let plan = ask(&context, "PLAN REBALANCE").await;
    assert_eq!(field(&plan, "moves"), Value::Array(Vec::new()));
    assert!(told(&plan, "note").contains("(maxmemory)"), "{plan:?}");
}

#[tokio::test]
async fn plans_grow_stale_and_only_the_newest_are_kept() {
    let context = with_keys(SKEWED);
    for _ in 0..=PLANS_MAX {
        ask(&context, "PLAN REBALANCE").await;
    }
    let gone = ask(&context, "PLAN SHOW e1-f00-1").await;
    assert!(
        error(&gone).starts_with("ERR plan 'e1-f00-1' is no longer kept"),
        "{gone:?}"
    );
    // Numbers that were never given, other epochs and other runs are no plans at all.
    for id in ["e1-f00-99", "e1-f00-0", "e1-abc-1", "e-f00-1", "e1-f00-x"] {
        let none = ask(&context, &format!("PLAN SHOW {id}")).await;
        assert!(error(&none).starts_with("ERR there is no plan"), "{id}: {none:?}");
    }
    let next = Topology {
        epoch: Epoch(2),
        ..(*context.shared.topology.load_full()).clone()
    };
    context.shared.topology.store(Arc::new(next));
    let stale = fields(&ask(&context, "PLAN SHOW e1-f00-2").await);
    assert_eq!((stale["state"].as_str(), stale["epoch"].as_str()), ("stale", "1"));
    assert!(stale["note"].starts_with("stale: it was made of epoch 1, and the topology is at 2"));
    let new = ask(&context, "PLAN REBALANCE").await;
    assert_eq!(told(&new, "id"), "e2-f00-18");
    assert_eq!(told(&new, "state"), "current");
}
