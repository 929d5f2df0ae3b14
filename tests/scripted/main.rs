//! Nodes that misbehave on command: the built `preshard` in front of fake nodes that are scripts.
//!
//! ```text
//!  client ──▶ preshard serve ──▶ fake node 1: shards 0 to 3, plays one trick when told to
//!  watchers ─▶      │      └───▶ fake node 2: shards 4 to 7, always well
//!                   └ values name their keys, so that a reply to somebody else is seen at once
//! ```
//!
//! Two things are looked at in each case: what the client whose request it was is told, and that nobody is ever given
//! a value that is not his own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on should stop, loudly, where it is"
)]

#[path = "../integration/harness/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the black-box tests' stage, of which these tests need a part"
)]
mod harness;
mod node;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{Metronome, PATIENCE, Proxy, Reply, Setup, key_in, undisturbed, wait_for, wait_until};
use node::{FakeNode, Trick};

const SHARDS: u16 = 8;
const PINNED: u16 = 4;
const DEADLINE: Duration = Duration::from_millis(500);
/// A machine that stands still for longer makes nodes that are well miss the deadline too.
const BEARS: Duration = Duration::from_millis(250);

/// A proxy before a node that will misbehave and one that will not.
struct Scene {
    bad: FakeNode,
    _well: FakeNode,
    proxy: Proxy,
}

/// Clients that read keys of some shards and know what they should find.
struct Watchers {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU32>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A key of a shard of the node that misbehaves; its database there has the shard's number.
fn key(shard: u16) -> String {
    key_in(shard, SHARDS, "key")
}

fn value_of(key: &str) -> String {
    format!("{key}|the value of {key}")
}

// === impl Scene ===

impl Scene {
    fn new(setup: impl Fn(Setup) -> Setup) -> Self {
        let (bad, well) = (FakeNode::start(), FakeNode::start());
        for shard in 0..SHARDS {
            let node = if shard < SHARDS / 2 { &bad } else { &well };
            node.put(shard, &key(shard), value_of(&key(shard)).as_bytes());
        }
        let plain = Setup::of(&[bad.address(), well.address()])
            .layout(SHARDS, PINNED)
            .proxy("workers = 1")
            .announce(&["link_closed", "node_down"]);
        let proxy = setup(plain).start();
        // Every link that is used later is open from here on.
        let mut client = proxy.client();
        for shard in [0, SHARDS - 1] {
            assert_eq!(
                client.call(&["GET", &key(shard)]),
                Reply::from(value_of(&key(shard)).as_str())
            );
        }
        Self {
            bad,
            _well: well,
            proxy,
        }
    }

    fn with_deadline() -> Self {
        Self::new(|setup| setup.proxy("request_timeout = \"500ms\""))
    }

    /// Watches keys of these shards. `errors` says whether failures with an honest word are borne.
    fn watch(&self, shards: Range<u16>, errors: bool) -> Watchers {
        let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let threads = (0..3)
            .map(|_| {
                let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
                let keys: Vec<String> = shards.clone().map(key).collect();
                let mut client = self.proxy.client();
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        keys.iter().for_each(|key| client.command(&["GET", key]));
                        for key in &keys {
                            match client.reply() {
                                Reply::Error(line) => assert!(errors && is_honest(&line), "{key}: {line}"),
                                reply => {
                                    assert_eq!(reply, Reply::from(value_of(key).as_str()), "{key}");
                                    good.fetch_add(1, Ordering::SeqCst);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let watchers = Watchers { stop, good, threads };
        watchers.see(10);
        watchers
    }

    /// Asks for a key on which the node plays a trick, with watchers on the other node, and perhaps on its own one.
    fn play(&self, trick: Trick, own_node_too: bool) -> Reply {
        let mut all = vec![self.watch(SHARDS / 2..SHARDS, false)];
        if own_node_too {
            all.push(self.watch(1..SHARDS / 2, true));
        }
        let before = self.bad.played();
        self.bad.arm(&key(0), trick);
        let reply = self.proxy.client().call(&["GET", &key(0)]);
        assert_eq!(self.bad.played(), before + 1, "the trick was played");
        self.await_good();
        all.into_iter().for_each(|watchers| {
            watchers.see(20);
            watchers.end();
        });
        reply
    }

    /// Waits until the bad node's shards answer well again; what they answer until then is honest.
    fn await_good(&self) {
        let mut client = self.proxy.client();
        wait_until("the node serves again", PATIENCE, || {
            match client.call(&["GET", &key(0)]) {
                Reply::Error(line) => {
                    assert!(is_honest(&line), "{line}");
                    false
                }
                reply => {
                    assert_eq!(reply, Reply::from(value_of(&key(0)).as_str()));
                    true
                }
            }
        });
    }

    fn metric(&self, series: &str) -> u64 {
        let (_, page) = self.proxy.http_get("/metrics");
        let row = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        row.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }

    fn await_metric(&self, series: &str, least: u64) {
        wait_until(series, PATIENCE, || self.metric(series) >= least);
    }
}

/// Words that say that nothing ran, or that it may have.
fn is_honest(line: &str) -> bool {
    ["UNCERTAIN ", "TRYAGAIN ", "CLUSTERDOWN "]
        .iter()
        .any(|word| line.starts_with(word))
}

fn closed(reason: &str) -> String {
    format!("preshard_node_links_closed_total{{node=\"node-1\",reason=\"{reason}\"}}")
}

// === impl Watchers ===

impl Watchers {
    /// Waits until this many more right values were seen.
    fn see(&self, more: u32) {
        let until = self.good.load(Ordering::SeqCst) + more;
        wait_until("watchers see right values", PATIENCE, || {
            self.good.load(Ordering::SeqCst) >= until
                || self.threads.iter().any(|thread| thread.is_finished())
        });
    }

    fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread
                .join()
                .expect("a watcher was given something that is not his");
        }
    }
}

#[test]
fn half_a_reply_is_no_reply() {
    let scene = Scene::new(|setup| setup);
    for trick in [Trick::Cut(1), Trick::Cut(8), Trick::Reset(0), Trick::Reset(8)] {
        scene.play(trick, true).expect_error("UNCERTAIN ");
    }
    assert!(
        scene.bad.links() >= 5,
        "a link that lost a reply is not used again"
    );
}

#[test]
fn a_large_reply_cut_in_its_middle_closes_its_client() {
    let scene = Scene::new(|setup| setup);
    let large = "x".repeat(1_000_000);
    let key = (0..)
        .map(|n| format!("large{n}"))
        .find(|key| harness::shard_of(key, SHARDS) == 0)
        .unwrap();
    scene.bad.put(0, &key, large.as_bytes());
    let watchers = scene.watch(SHARDS / 2..SHARDS, false);
    scene.bad.arm(&key, Trick::Cut(500_000));
    let mut client = scene.proxy.client();
    client.send(
        &[
            harness::wire::frame(&["GET", &key]),
            harness::wire::frame(&["PING"]),
        ]
        .concat(),
    );
    let got = client.until_closed();
    assert!(
        got.len() <= 500_000 && got.starts_with(b"$1000000\r\nxxx"),
        "{}",
        got.len()
    );
    assert!(got.ends_with(b"x"), "nothing follows what was cut");
    scene.await_metric("preshard_client_disconnects_total{reason=\"partial_reply\"}", 1);
    scene.await_good();
    watchers.end();
}

#[test]
fn a_reply_that_comes_byte_by_byte_is_whole() {
    let scene = Scene::new(|setup| setup);
    let reply = scene.play(Trick::Drip(Duration::from_millis(2)), true);
    assert_eq!(reply, Reply::from(value_of(&key(0)).as_str()));
    assert_eq!(scene.bad.links(), 1, "slow is no reason to close");
}

#[test]
fn a_reply_too_many_closes_the_link_and_goes_to_nobody() {
    let scene = Scene::new(|setup| setup);
    let reply = scene.play(Trick::Twice, false);
    assert_eq!(reply, Reply::from(value_of(&key(0)).as_str()));
    scene.await_metric(&closed("extra_reply"), 1);
}

#[test]
fn a_script_that_is_answered_twice_or_not_at_all_shifts_nobodys_replies() {
    undisturbed(BEARS, answer_scripts_wrongly);
}

fn answer_scripts_wrongly() {
    for (trick, reason) in [
        (Trick::Twice, "extra_reply"),
        (
            Trick::Instead(Arc::new(b"-ERR a\r\n+INJECTED\r\n".to_vec())),
            "extra_reply",
        ),
        // The fence is then taken for the answer, and no fence follows.
        (Trick::Nothing, "timeout"),
    ] {
        let scene = if reason == "timeout" {
            Scene::with_deadline()
        } else {
            Scene::new(|setup| setup)
        };
        // A key that no watcher reads: the trick is for a script.
        let odd = (0..)
            .map(|n| format!("odd{n}"))
            .find(|key| harness::shard_of(key, SHARDS) == 0)
            .unwrap();
        scene.bad.put(0, &odd, b"odd");
        let scripts: Vec<_> = (0..4)
            .map(|_| {
                let mut client = scene.proxy.client();
                std::thread::spawn(move || {
                    for _ in 0..200 {
                        let reply = client.call(&["EVAL", "", "1", &key(1)]);
                        let right = reply == Reply::from(value_of(&key(1)).as_str());
                        assert!(right || failure_word(&reply), "{reply:?}");
                    }
                })
            })
            .collect();
        let watchers = scene.watch(0..SHARDS, false);
        scene.bad.arm(&odd, trick);
        let mut attacker = scene.proxy.client();
        attacker.command(&["EVAL", "", "1", &odd]);
        attacker.command(&["EVAL", "", "1", &key(1)]);
        attacker.reply().expect_error("UNCERTAIN ");
        let behind = attacker.reply();
        let right = behind == Reply::from(value_of(&key(1)).as_str());
        assert!(right || failure_word(&behind), "{behind:?}");
        scripts.into_iter().for_each(|script| script.join().unwrap());
        scene.await_metric(&closed(reason), 1);
        watchers.end();
    }
}

/// Whether a reply says that its command has not run, or that it may have.
fn failure_word(reply: &Reply) -> bool {
    reply.error().is_some_and(|text| {
        ["UNCERTAIN ", "TRYAGAIN ", "CLUSTERDOWN "]
            .iter()
            .any(|word| text.starts_with(word))
    })
}

#[test]
fn a_push_that_nobody_asked_for_closes_the_link() {
    let scene = Scene::new(|setup| setup);
    let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n".to_vec();
    scene
        .play(Trick::Instead(Arc::new(push)), true)
        .expect_error("UNCERTAIN ");
    scene.await_metric(&closed("extra_reply"), 1);
}

#[test]
fn a_missing_reply_is_uncertain_at_its_deadline_and_the_silent_link_is_closed() {
    undisturbed(BEARS, answer_nothing);
}

fn answer_nothing() {
    let scene = Scene::with_deadline();
    let start = Instant::now();
    let watchers = scene.watch(SHARDS / 2..SHARDS, false);
    let (asked, metronome) = (Instant::now(), Metronome::start());
    scene.bad.arm(&key(0), Trick::Nothing);
    scene
        .proxy
        .client()
        .call(&["GET", &key(0)])
        .expect_error("UNCERTAIN ");
    assert_deadline(asked.elapsed(), &metronome);
    let refused = scene.proxy.client().call(&["GET", &key(1)]);
    refused.expect_error("CLUSTERDOWN ");
    scene.await_good();
    scene.await_metric(&closed("timeout"), 1);
    println!("good again after {:?}", start.elapsed());
    watchers.see(20);
    watchers.end();
}

/// Ten parts in a hundred early or late, and by what the machine itself was late.
fn assert_deadline(took: Duration, metronome: &Metronome) {
    let late = metronome.late();
    assert!(took >= DEADLINE.mul_f64(0.9), "early: {took:?}");
    assert!(
        took <= DEADLINE.mul_f64(1.1) + Duration::from_millis(150) + late,
        "late: {took:?}, the machine by {late:?}"
    );
}

#[test]
fn a_late_reply_is_eaten_and_the_next_one_is_right() {
    undisturbed(BEARS, answer_late);
}

fn answer_late() {
    let scene = Scene::with_deadline();
    let watchers = scene.watch(SHARDS / 2..SHARDS, false);
    for round in 1..=3 {
        scene.bad.arm(&key(0), Trick::Hold);
        let mut client = scene.proxy.client();
        let (asked, metronome) = (Instant::now(), Metronome::start());
        client.call(&["GET", &key(0)]).expect_error("UNCERTAIN ");
        assert_deadline(asked.elapsed(), &metronome);
        assert_eq!(scene.bad.played(), round);
        scene.bad.release();
        let reply = wait_for("the node is heard again", PATIENCE, || {
            let reply = client.call(&["GET", &key(1)]);
            reply.error().is_none_or(|line| !is_honest(line)).then_some(reply)
        });
        assert_eq!(reply, Reply::from(value_of(&key(1)).as_str()));
        scene.await_good();
    }
    assert_eq!(scene.bad.links(), 1, "what is only late does not close the link");
    watchers.see(20);
    watchers.end();
}

#[test]
fn a_select_that_fails_after_the_handshake_passes_nothing_off_as_done() {
    let scene = Scene::new(|setup| setup);
    let watchers = scene.watch(SHARDS / 2..SHARDS, false);
    let mut client = scene.proxy.client();
    for shard in [1, 2, 3] {
        let other = key(0);
        assert_eq!(
            client.call(&["GET", &other]),
            Reply::from(value_of(&other).as_str())
        );
        // What comes behind the refused SELECT runs in the database before, as on a real node.
        scene.bad.refuse_select(shard);
        let mine = key(shard);
        let bytes = [
            harness::wire::frame(&["SET", &mine, "written"]),
            harness::wire::frame(&["GET", &mine]),
        ];
        client.send(&bytes.concat());
        client.reply().expect_error("UNCERTAIN ");
        client.reply().expect_error("UNCERTAIN ");
        scene.await_good();
        let stays = client.call(&["GET", &mine]);
        assert_eq!(
            stays,
            Reply::from(value_of(&mine).as_str()),
            "nothing was written there"
        );
    }
    scene.await_metric(&closed("select_failed"), 3);
    watchers.see(20);
    watchers.end();
}

#[test]
fn a_hundred_thousand_nested_arrays_pass_and_nothing_falls_over() {
    let scene = Scene::new(|setup| setup);
    let mut nested = b"*1\r\n".repeat(100_000);
    nested.extend_from_slice(b":7\r\n");
    let nested = Arc::new(nested);
    let watchers = scene.watch(1..SHARDS, false);
    let mut client = scene.proxy.client();
    scene.bad.arm(&key(0), Trick::Instead(Arc::clone(&nested)));
    client.command(&["GET", &key(0)]);
    assert!(client.reply_bytes() == *nested, "passed on as it came");
    assert_eq!(scene.bad.links(), 1);
    scene.bad.arm(&key(0), Trick::Instead(Arc::clone(&nested)));
    client.command(&["MGET", &key(0), &key(SHARDS - 1)]);
    let merged = client.reply_bytes();
    assert!(
        merged.starts_with(b"*2\r\n*1\r\n*1\r\n") && merged.len() > nested.len(),
        "{} bytes",
        merged.len()
    );
    assert_eq!(scene.bad.links(), 1);
    scene.await_good();
    watchers.see(20);
    watchers.end();
}

#[test]
fn bytes_that_are_no_reply_close_the_link() {
    let scene = Scene::new(|setup| setup);
    for bytes in [
        &b"$99999999999\r\n"[..],
        b"*99999999999999999999\r\n",
        b"$-2\r\n",
        b"hello\r\n",
        b"$3\r\nabcdef\r\n",
        b":12a\r\n",
        b"\0",
    ] {
        let reply = scene.play(Trick::Instead(Arc::new(bytes.to_vec())), true);
        reply.expect_error("UNCERTAIN ");
    }
    scene.await_metric(&closed("bad_reply"), 7);
}

#[test]
fn a_reply_that_its_client_does_not_read_costs_the_limit_and_then_the_client() {
    let scene = Scene::new(|setup| setup.proxy("request_timeout = \"30s\""));
    let mut huge = b"$90000000\r\n".to_vec();
    huge.resize(huge.len() + 90_000_000, b'x');
    huge.extend_from_slice(b"\r\n");
    let before = scene.proxy.resident_bytes();
    let watchers = scene.watch(SHARDS / 2..SHARDS, false);
    scene.bad.arm(&key(0), Trick::Instead(Arc::new(huge)));
    let mut reader = scene.proxy.client();
    reader.command(&["GET", &key(0)]);
    scene.await_metric("preshard_client_disconnects_total{reason=\"output_limit\"}", 1);
    scene.await_good();
    assert_eq!(scene.bad.links(), 1, "its link serves the others");
    watchers.see(20);
    watchers.end();
    let grown = scene.proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 160 << 20, "{} MiB are still held", grown >> 20);
}

#[test]
fn a_reply_too_many_while_a_connection_is_made_is_not_believed() {
    let scene = Scene::new(|setup| setup);
    scene.bad.double_names(true);
    // The first of its protocol version opens a link; its mark would be read out of step.
    let mut client = scene.proxy.client3();
    client.call(&["GET", &key(0)]).expect_error("CLUSTERDOWN ");
    scene.await_good();
    scene.bad.double_names(false);
    wait_until("the node is served again", PATIENCE, || {
        client.call(&["GET", &key(0)]) == Reply::from(value_of(&key(0)).as_str())
    });
}
