//! Connections that break, lie or lose something, made by a relay between the proxy and a node.
//!
//! What must hold is what `faults` says; a link that is once in doubt is closed, and nobody gets another one's reply.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::faults::{FAULT_EVENTS, Failure, failure, fill, keys_on, read_until, value_of};
use crate::harness::relay::{Fault, Relay};
use crate::harness::wire::frame;
use crate::harness::{
    Client, Metronome, Node, PATIENCE, Proxy, Reply, Setup, shard_of, undisturbed, wait_for, wait_until,
};

/// A proxy that stands still for longer gives nodes more time than its deadline says.
const BEARS: Duration = Duration::from_millis(80);

/// A proxy with one worker, whose first node is behind a relay.
struct Broken {
    _nodes: [Node; 2],
    relay: Relay,
    proxy: Proxy,
    keys: Vec<String>,
}

impl Broken {
    fn new() -> Self {
        let nodes = [Node::start(), Node::start()];
        let relay = Relay::to(nodes[0].socket());
        let proxy = Setup::of(&[relay.address(), nodes[1].address()])
            .proxy("workers = 1")
            .proxy("request_timeout = \"1s\"")
            .announce(FAULT_EVENTS)
            .start();
        let keys = keys_on(1, 12);
        fill(&proxy, &keys);
        Self {
            _nodes: nodes,
            relay,
            proxy,
            keys,
        }
    }

    /// Three GETs in one write, the fault upon the one in the middle: three replies, none wrong, then all is well.
    fn strike(&self, name: &str, marker: &str, fault: Fault) -> Vec<Reply> {
        let struck = self.relay.fired();
        let mut client = self.proxy.client();
        wait_until("all well before", PATIENCE, || {
            client.call(&["GET", &self.keys[1]]) == Reply::from(value_of(&self.keys[1]).as_str())
        });
        self.relay.arm(marker, fault);
        client.send(
            &self.keys[..3]
                .iter()
                .flat_map(|key| frame(&["GET", key]))
                .collect::<Vec<_>>(),
        );
        let replies: Vec<Reply> = (0..3).map(|_| client.reply()).collect();
        self.relay.await_fault(struck + 1);
        for (key, reply) in self.keys.iter().zip(&replies) {
            if *reply != Reply::from(value_of(key).as_str()) {
                failure(reply);
            }
        }
        wait_until(&format!("well again after: {name}"), PATIENCE, || {
            let reply = client.call(&["GET", &self.keys[1]]);
            if reply.error().is_none() {
                assert_eq!(
                    reply,
                    Reply::from(value_of(&self.keys[1]).as_str()),
                    "after {name}"
                );
                return true;
            }
            false
        });
        replies
    }

    /// Clients that read all keys and know what they should find, while `during` runs.
    fn under_load(&self, during: impl FnOnce(&Self)) {
        let done = AtomicBool::new(false);
        let running = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        running.fetch_add(1, Ordering::Relaxed);
                        read_until(&done, &self.proxy, &self.keys[3..], None)
                    })
                })
                .collect();
            wait_until("the load runs", PATIENCE, || running.load(Ordering::Relaxed) == 3);
            during(self);
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                assert!(reader.join().unwrap().0 > 0);
            }
        });
    }

    fn marker(&self) -> String {
        value_of(&self.keys[1])
    }
}

#[test]
fn a_connection_cut_anywhere_fails_what_was_in_flight_and_mixes_nothing() {
    undisturbed(BEARS, cut_anywhere);
}

fn cut_anywhere() {
    let broken = Broken::new();
    let marker = broken.marker();
    broken.under_load(|broken| {
        for keep in [0, 1, 3, 4, 6, marker.len() + 5] {
            let links = broken.relay.accepted();
            let replies = broken.strike(&format!("cut after {keep} bytes"), &marker, Fault::CutReply(keep));
            assert_eq!(
                failure(&replies[1]),
                Failure::Uncertain,
                "sent and not answered: {:?}",
                replies[1]
            );
            assert!(broken.relay.accepted() > links, "a new connection was made");
        }
        for _ in 0..2 {
            let replies = broken.strike("reset", &marker, Fault::Reset);
            assert_eq!(failure(&replies[1]), Failure::Uncertain, "{:?}", replies[1]);
        }
        let key = broken.keys[1].clone();
        broken.strike("request cut in its middle", &key, Fault::CutRequest);
    });
}

#[test]
fn a_reply_after_the_deadline_is_nobody_elses_reply() {
    let broken = Broken::new();
    let marker = broken.marker();
    broken.under_load(|broken| {
        for late in [1_100, 1_500, 2_500] {
            let fault = Fault::Delay(Duration::from_millis(late));
            let reply = wait_for("a proxy that goes on meanwhile", PATIENCE, || {
                let metronome = Metronome::start();
                let reply = broken.strike("late", &marker, fault.clone()).swap_remove(1);
                // One that stood still gives the node more time.
                (reply.error().is_some() || metronome.late() < BEARS).then_some(reply)
            });
            assert_eq!(failure(&reply), Failure::Uncertain, "{late} ms: {reply:?}");
        }
    });
}

#[test]
fn a_reply_that_is_no_reply_closes_the_connection() {
    undisturbed(BEARS, reply_garbage);
}

fn reply_garbage() {
    let broken = Broken::new();
    let marker = broken.marker();
    broken.under_load(|broken| {
        for garbage in [
            "!!garbage\r\n",
            "$-2\r\n",
            "*-2\r\n",
            "$x\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "\r\n",
            ":12345678901234567890123456789012\r\n",
        ] {
            let links = broken.relay.accepted();
            let replies = broken.strike(garbage, &marker, Fault::Replace(garbage.into()));
            assert_eq!(
                failure(&replies[1]),
                Failure::Uncertain,
                "{garbage:?}: {:?}",
                replies[1]
            );
            assert!(
                broken.relay.accepted() > links,
                "{garbage:?}: a new connection was made"
            );
        }
    });
}

/// A node that fell silent is given five seconds, then its connection is made anew.
fn silence(fault: Fault) {
    let broken = Broken::new();
    // The last of the three, alone on the connection: what comes behind cannot hide that one is missing.
    let marker = value_of(&broken.keys[2]);
    let links = broken.relay.accepted();
    let replies = broken.strike("a reply too few", &marker, fault);
    assert_eq!(failure(&replies[2]), Failure::Uncertain, "{:?}", replies[2]);
    assert!(broken.relay.accepted() > links, "a new connection was made");
}

#[test]
fn a_reply_too_few_times_out_and_closes_the_connection() {
    undisturbed(BEARS, || silence(Fault::Eat));
}

#[test]
fn a_reply_that_never_ends_times_out_and_closes_the_connection() {
    undisturbed(BEARS, || {
        silence(Fault::Replace(b"$99999999999\r\nnot all of it".to_vec()))
    });
}

#[test]
fn a_reply_too_many_closes_the_connection() {
    let broken = Broken::new();
    let marker = value_of(&broken.keys[2]);
    let links = broken.relay.accepted();
    broken.strike("a reply twice", &marker, Fault::Duplicate);
    wait_until("a new connection is made", PATIENCE, || {
        broken.relay.accepted() > links
    });
    let mut client = broken.proxy.client();
    for key in &broken.keys {
        let reply = wait_for("a good reply", PATIENCE, || {
            Some(client.call(&["GET", key])).filter(|reply| reply.error().is_none())
        });
        assert_eq!(reply, Reply::from(value_of(key).as_str()));
    }
}

#[test]
fn what_stands_behind_a_failed_select_is_never_believed() {
    let broken = Broken::new();
    // The node gets another SELECT than the one that was sent, refuses it, and runs what is behind it in the database
    // that was selected before, where the keys are not: nobody may be told that they do not exist.
    broken.under_load(|broken| {
        for database in [0, 1, 2, 3, 1, 2] {
            let struck = broken.relay.fired();
            let select = format!("SELECT\r\n$1\r\n{database}\r\n");
            broken
                .relay
                .arm(&select, Fault::Rewrite(b"SELECT\r\n$2\r\n99\r\n".to_vec()));
            let mut client = broken.proxy.client();
            wait_until("a SELECT has failed", PATIENCE, || {
                for key in &broken.keys {
                    let reply = client.call(&["GET", key]);
                    if reply != Reply::from(value_of(key).as_str()) {
                        failure(&reply);
                    }
                }
                broken.relay.fired() > struck
            });
        }
    });
    let mut client = Client::connect(broken.proxy.data);
    wait_until("well again", PATIENCE, || {
        client.call(&["GET", &broken.keys[0]]) == Reply::from(value_of(&broken.keys[0]).as_str())
    });
}

#[test]
fn a_split_write_whose_part_is_in_doubt_says_how_much_is_done() {
    undisturbed(BEARS, doubt_a_part_of_a_split_write);
}

fn doubt_a_part_of_a_split_write() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .proxy("request_timeout = \"500ms\"")
        .announce(FAULT_EVENTS)
        .start();
    let (frozen, free) = (keys_on(1, 1).remove(0), keys_on(2, 1).remove(0));
    fill(&proxy, &[frozen.clone(), free.clone()]);
    let mut client = proxy.client();
    // By connections of this client's worker.
    client.call(&["EXISTS", &free, &frozen]);
    nodes[0].freeze();
    let reply = client.call(&["MSET", &free, "new", &frozen, "new"]);
    nodes[0].thaw();
    let shard = shard_of(&frozen, 8);
    assert_eq!(
        reply.error(),
        Some(&*format!(
            "UNCERTAIN preshard: 1 of 2 shards done; UNCERTAIN preshard: shard {shard}: sent, no answer; it may have run"
        ))
    );
    assert_eq!(client.call(&["GET", &free]), Reply::from("new"));
    // It was in the node's input, and in front of whatever is asked now.
    let found = wait_for("the node answers again", PATIENCE, || {
        Some(client.call(&["GET", &frozen])).filter(|reply| reply.error().is_none())
    });
    assert_eq!(found, Reply::from("new"));
}
