//! The proxy must never give a reply to somebody else: clients that leave at any byte, nodes that fail in every way.
//!
//! ```text
//!  clients (seeded): pipelines by chance ─▶ preshard ─▶ [ relay that breaks things ] ─▶ redis-server ×2
//!      │ each reply is foretold by a model,     ▲ clients leave in the middle of a byte, are killed, reset, half-close
//!      ▼ token by token, in order               └ nodes freeze, scripts run into BUSY
//!  ledger: acknowledged effects on shared keys exist once, those that have not run do not exist
//! ```
//!
//! `PRESHARD_TEST_SEED` chooses what all clients and relays do; `PRESHARD_DESYNC_REQUESTS` makes the runs longer. What
//! the seed cannot fix is how threads and processes interleave, so a failure may need its seed more than once.

mod client;
mod ledger;
mod listener;
mod model;
mod pipeline;
mod plan;

use std::time::{Duration, Instant};

use self::client::DesyncClient;
use self::listener::Listener;
use self::model::{BY_SUM, LIBRARY};
use self::plan::{Plan, Stage};
use crate::harness::{
    CHAOS, Chaos, Node, NodeOptions, PATIENCE, Proxy, Reply, Setup, lacks, seed, wait_for, wait_until,
};

/// What may be logged when nodes and connections fail.
const EVENTS: &[&str] = &[
    "link_closed",
    "node_down",
    "node_fault",
    "node_not_heard",
    "node_unreachable",
    "popped_for_nobody",
    "subscriptions_interrupted",
];

fn plan(name: &'static str, requests: u64) -> Plan {
    let asked = std::env::var("PRESHARD_DESYNC_REQUESTS").ok();
    // A build without optimisation takes half as many.
    let requests = if cfg!(debug_assertions) {
        requests / 2
    } else {
        requests
    };
    let requests = asked.map_or(requests, |asked| {
        asked.parse().expect("PRESHARD_DESYNC_REQUESTS is a number")
    });
    Plan {
        name,
        requests,
        clients: 20,
        fails: true,
        busy: false,
    }
}

/// Lets all clients live while `faults` goes on, then judges what is there. `heal` comes between.
fn run(plan: Plan, seed: u64, proxy: &Proxy, faults: impl FnOnce(&Stage<'_>) + Send, heal: impl FnOnce()) {
    let mut client = proxy.client();
    // On a machine that does much else even this may be too slow for a short deadline.
    let mut told = |words: &[&str]| {
        wait_for("all nodes have it", PATIENCE, || {
            Some(client.call(words)).filter(|reply| reply.error().is_none())
        })
    };
    assert_eq!(
        told(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]),
        Reply::from("desync")
    );
    let sum = told(&["SCRIPT", "LOAD", BY_SUM]).text();
    let stage = Stage::new(plan, proxy, seed, sum);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let stage = &stage;
        let clients: Vec<_> = (0..plan.clients)
            .map(|number| {
                scope.spawn(move || {
                    let _guard = stage.guard();
                    DesyncClient::new(stage, number).live();
                })
            })
            .collect();
        for number in 0..4 {
            scope.spawn(move || {
                let _guard = stage.guard();
                Listener::new(stage, number).live();
            });
        }
        scope.spawn(move || {
            let _guard = stage.guard();
            faults(stage);
        });
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        stage.end();
        assert!(
            outcomes.iter().all(Result::is_ok),
            "a client got a wrong reply: see above"
        );
    });
    stage.counts.print(&plan, start.elapsed().as_secs_f64());
    heal();
    let mut client = proxy.client();
    wait_until("all shards are served", PATIENCE, || {
        client.ask("DBSIZE").error().is_none()
    });
    stage.ledger.judge(proxy);
    nothing_is_left(proxy);
}

/// No connection of a client's own and no byte of anybody's is left.
fn nothing_is_left(proxy: &Proxy) {
    for name in [
        "preshard_node_dedicated_used",
        "preshard_pubsub_clients",
        "preshard_node_queue_commands",
    ] {
        wait_until(name, PATIENCE, || {
            let (_, page) = proxy.http_get("/metrics");
            let values = page
                .lines()
                .filter(|line| line.starts_with(name))
                .map(|line| line.rsplit(' ').next());
            values.flatten().all(|value| value == "0")
        });
    }
}

fn nodes(more: &[&str]) -> [Node; 2] {
    [(); 2].map(|()| {
        Node::with(NodeOptions {
            more: more.iter().map(|&word| word.to_owned()).collect(),
            ..NodeOptions::default()
        })
    })
}

#[test]
fn clients_that_leave_anywhere_leave_no_wrong_reply() {
    if lacks("functions") {
        return;
    }
    let nodes = nodes(&[]);
    let proxy = Setup::of(&nodes.each_ref().map(Node::address))
        .announce(&["popped_for_nobody"])
        .start();
    let plan = Plan {
        fails: false,
        ..plan("leaving", 150_000)
    };
    run(plan, seed(), &proxy, |_| {}, || {});
}

#[test]
fn nodes_whose_replies_are_late_cut_doubled_or_lost_leave_no_wrong_reply() {
    if lacks("functions") {
        return;
    }
    let seed = seed();
    let nodes = nodes(&[]);
    let relays = [0, 1].map(|number: usize| {
        Chaos::to(
            nodes[number].socket(),
            seed ^ number as u64,
            Duration::from_millis(400),
        )
    });
    let proxy = Setup::of(&relays.each_ref().map(Chaos::address))
        .proxy("request_timeout = \"250ms\"")
        .announce(EVENTS)
        .start();
    let strike = |rate| relays.iter().for_each(|relay| relay.strike_one_in(rate));
    let faults = |stage: &Stage<'_>| {
        strike(400);
        wait_until("the run is over", Duration::from_secs(3600), || stage.is_over());
    };
    run(plan("chaos", 90_000), seed, &proxy, faults, || strike(0));
    let struck = relays.each_ref().map(Chaos::struck);
    for (place, what) in CHAOS.iter().enumerate() {
        println!("{what}: {}", struck[0][place] + struck[1][place]);
    }
    assert!(
        struck.iter().all(|struck| struck.iter().sum::<u64>() > 10),
        "the relays did their work"
    );
}

#[test]
fn nodes_that_freeze_and_answer_after_the_deadline_leave_no_wrong_reply() {
    if lacks("functions") {
        return;
    }
    let seed = seed();
    let nodes = nodes(&[]);
    let proxy = Setup::of(&nodes.each_ref().map(Node::address))
        .proxy("request_timeout = \"100ms\"")
        .announce(EVENTS)
        .start();
    let faults = |stage: &Stage<'_>| {
        let mut random = fastrand::Rng::with_seed(seed);
        while !stage.is_over() {
            let node = random.choice(&nodes).unwrap();
            node.freeze();
            pass(random.u64(1..250));
            node.thaw();
            pass(random.u64(1..250));
        }
    };
    run(plan("freezing", 90_000), seed, &proxy, faults, || {});
}

#[test]
fn scripts_that_make_nodes_busy_leave_no_wrong_reply() {
    if lacks("functions") {
        return;
    }
    let nodes = nodes(&["--busy-reply-threshold", "20"]);
    let proxy = Setup::of(&nodes.each_ref().map(Node::address))
        .proxy("request_timeout = \"100ms\"")
        .announce(EVENTS)
        .start();
    let plan = Plan {
        busy: true,
        ..plan("busy", 90_000)
    };
    run(plan, seed(), &proxy, |_| {}, || {});
}

#[test]
fn limits_that_are_reached_all_the_time_leave_no_wrong_reply() {
    if lacks("functions") {
        return;
    }
    let nodes = nodes(&[]);
    let proxy = Setup::of(&nodes.each_ref().map(Node::address))
        .proxy("workers = 1")
        .proxy("in_flight_max = 6")
        .proxy("in_flight_bytes_max = \"1MiB\"")
        .proxy("output_bytes_soft = \"64KiB\"")
        .nodes("in_flight_max = 5")
        .nodes("in_flight_bytes_max = \"256KiB\"")
        .nodes("queue_max = 20")
        .nodes("dedicated_max = 3")
        .announce(&["popped_for_nobody"])
        .start();
    run(plan("narrow", 60_000), seed(), &proxy, |_| {}, || {});
}

/// Time that a fault lasts.
fn pass(milliseconds: u64) {
    let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
    while start.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(start.elapsed()));
    }
}
