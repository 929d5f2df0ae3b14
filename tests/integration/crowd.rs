//! Many clients at once on few shared connections: everybody gets his own replies, whatever the others do or leave.

mod standing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::wire::{decode, frame};
use crate::harness::{Client, Metronome, Node, PATIENCE, Proxy, Reply, Setup, key_in, seed, wait_until};

fn behind(setup: impl Fn(Setup) -> Setup) -> ([Node; 2], Proxy) {
    let nodes = [Node::start(), Node::start()];
    let proxy = setup(Setup::of(&[nodes[0].address(), nodes[1].address()])).start();
    (nodes, proxy)
}

/// One client that knows what it should find: its keys are nobody else's.
struct Knowing {
    client: Client,
    random: fastrand::Rng,
    name: String,
    strings: BTreeMap<String, String>,
    counters: BTreeMap<String, i64>,
}

impl Knowing {
    fn new(proxy: &Proxy, number: u64, seed: u64) -> Self {
        let client = if number.is_multiple_of(3) {
            proxy.client3()
        } else {
            proxy.client()
        };
        Self {
            client,
            random: fastrand::Rng::with_seed(seed ^ number),
            name: format!("client{number}"),
            strings: BTreeMap::new(),
            counters: BTreeMap::new(),
        }
    }

    fn key(&mut self) -> String {
        format!("{}:{}", self.name, self.random.u8(0..30))
    }

    /// Adds one command to the pipeline, with the reply that it must get.
    fn step(&mut self, bytes: &mut Vec<u8>, wanted: &mut Vec<Reply>) {
        let key = self.key();
        let known = |strings: &BTreeMap<String, String>, key: &String| {
            strings
                .get(key)
                .map_or(Reply::Null, |value| Reply::from(value.as_str()))
        };
        match self.random.u8(0..10) {
            0..=2 => {
                let size = if self.random.u8(0..20) == 0 {
                    200_000
                } else {
                    self.random.usize(0..200)
                };
                let value = format!("{key}|{}", "x".repeat(size));
                bytes.extend(frame(&["SET", &key, &value]));
                self.strings.insert(key, value);
                wanted.push(Reply::Simple("OK".to_owned()));
            }
            3..=5 => {
                bytes.extend(frame(&["GET", &key]));
                wanted.push(known(&self.strings, &key));
            }
            6 => {
                let others = [self.key(), self.key(), key];
                bytes.extend(frame(&["MGET", &others[0], &others[1], &others[2]]));
                wanted.push(Reply::Array(
                    others.iter().map(|key| known(&self.strings, key)).collect(),
                ));
            }
            7 => {
                let counter = format!("{key}:count");
                bytes.extend(frame(&["INCR", &counter]));
                let count = self.counters.entry(counter).or_default();
                *count += 1;
                wanted.push(Reply::Int(*count));
            }
            8 => {
                bytes.extend(frame(&["DEL", &key]));
                wanted.push(Reply::Int(i64::from(self.strings.remove(&key).is_some())));
            }
            _ => {
                bytes.extend(frame(&["ECHO", &key]));
                wanted.push(Reply::from(key.as_str()));
            }
        }
    }

    fn round(&mut self) {
        let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
        for _ in 0..self.random.usize(1..60) {
            self.step(&mut bytes, &mut wanted);
        }
        self.client.send(&bytes);
        for (place, want) in wanted.iter().enumerate() {
            let got = self.client.reply();
            assert!(
                got == *want,
                "{}: reply {place}: wanted {want:?}, got {got:?}",
                self.name
            );
        }
    }
}

/// Twelve clients that know what they should find, for two seconds, while `beside` runs again and again.
fn crowd(proxy: &Proxy, beside: impl Fn(&mut fastrand::Rng) + Sync) {
    let seed = seed();
    let done = AtomicBool::new(false);
    let rounds: [AtomicU32; 12] = Default::default();
    std::thread::scope(|scope| {
        let (done, beside, rounds) = (&done, &beside, &rounds);
        let knowing: Vec<_> = (0..12_u8)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Knowing::new(proxy, u64::from(number), seed);
                    while !done.load(Ordering::Relaxed) {
                        client.round();
                        rounds[usize::from(number)].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let aside = scope.spawn(move || {
            let mut random = fastrand::Rng::with_seed(seed);
            while !done.load(Ordering::Relaxed) {
                beside(&mut random);
            }
        });
        let start = Instant::now();
        wait_until(
            "two seconds of it in which nobody starves, or one that failed",
            PATIENCE,
            || {
                let nobody_starves = rounds.iter().all(|rounds| rounds.load(Ordering::Relaxed) > 3);
                start.elapsed() > Duration::from_secs(2) && nobody_starves
                    || knowing.iter().any(|thread| thread.is_finished())
            },
        );
        done.store(true, Ordering::Relaxed);
        knowing.into_iter().for_each(|thread| thread.join().unwrap());
        aside.join().unwrap();
    });
}

#[test]
fn everybody_gets_his_own_replies() {
    let (_nodes, proxy) = behind(|setup| setup);
    crowd(&proxy, |_| std::thread::yield_now());
}

#[test]
fn clients_that_leave_in_the_middle_take_nobodys_reply_with_them() {
    let (_nodes, proxy) = behind(|setup| setup);
    let big = "y".repeat(1 << 20);
    for shard in 0..8 {
        proxy
            .client()
            .call(&["SET", &key_in(shard, 8, "big"), &big])
            .expect_ok();
    }
    crowd(&proxy, |random| {
        let mut client = if random.bool() {
            proxy.client()
        } else {
            proxy.client3()
        };
        let (mut bytes, mut wanted) = (Vec::new(), Vec::new());
        for number in 0..random.usize(1..30) {
            let big_key = key_in(random.u16(0..8), 8, "big");
            let (command, want) = match random.u8(0..5) {
                0 => (frame(&["GET", &big_key]), Reply::from(big.as_str())),
                1 => {
                    let want = vec![Reply::from(big.as_str()), Reply::Null, Reply::Null];
                    (frame(&["MGET", &big_key, "none:a", "none:b"]), Reply::Array(want))
                }
                2 => (frame(&["GET", &format!("none:{number}")]), Reply::Null),
                3 => (frame(&["EXISTS", "none:a", "none:b", "none:c"]), Reply::Int(0)),
                _ => (frame(&["STRLEN", &big_key]), Reply::Int(1 << 20)),
            };
            bytes.extend(command);
            wanted.push(want);
        }
        if random.bool() {
            bytes.truncate(random.usize(1..bytes.len()));
        }
        let _ = client.try_send(&bytes);
        client.limit = Duration::from_millis(random.u64(1..20));
        // A few of its replies are read, and must be its own and not those of one that left before.
        for want in wanted.iter().take(random.usize(0..6)) {
            let Ok(got) = client.try_reply_bytes() else { break };
            assert!(decode(&got) == *want, "another one's reply: {:?}", decode(&got));
        }
        if random.bool() {
            let _ = socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO));
        }
    });
    proxy.assert_alive("many that left");
}

#[test]
fn replies_for_one_who_left_go_to_nobody() {
    let (nodes, proxy) = behind(|setup| setup.proxy("workers = 1").proxy("request_timeout = \"20s\""));
    let (theirs, mine) = (key_in(1, 8, "theirs:"), key_in(1, 8, "mine:"));
    let mut witness = proxy.client();
    witness
        .call(&["MSET", &theirs, "theirs", &mine, "mine"])
        .expect_ok();
    for _ in 0..3 {
        let mut leaving = proxy.client();
        leaving.call(&["CLIENT", "SETNAME", "leaving"]).expect_ok();
        nodes[0].freeze();
        leaving.send(&frame(&["GET", &theirs]).repeat(10));
        // Taken: what was behind it has been answered.
        leaving.send(b"PING\r\n");
        wait_until("its requests are taken", PATIENCE, || {
            witness
                .ask("CLIENT LIST")
                .text()
                .lines()
                .any(|line| line.contains("name=leaving") && line.contains("cmd=ping"))
        });
        socket2::SockRef::from(leaving.stream())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(leaving);
        wait_until("it is gone", PATIENCE, || {
            !witness.ask("CLIENT LIST").text().contains("name=leaving")
        });
        // The next one sits where it sat.
        let mut next = proxy.client();
        next.call(&["CLIENT", "SETNAME", "next"]).expect_ok();
        next.send(&frame(&["GET", &mine]).repeat(10));
        wait_until("its requests are taken", PATIENCE, || {
            let list = witness.ask("CLIENT LIST").text();
            list.lines()
                .any(|line| line.contains("name=next") && line.contains("cmd=get"))
        });
        nodes[0].thaw();
        for _ in 0..10 {
            assert_eq!(next.reply(), Reply::from("mine"));
        }
    }
}

#[test]
fn small_limits_slow_a_crowd_down_and_change_no_reply() {
    let (_nodes, proxy) = behind(|setup| {
        setup
            .proxy("in_flight_max = 5")
            .proxy("in_flight_bytes_max = \"64KiB\"")
            .proxy("output_bytes_soft = \"64KiB\"")
            .nodes("in_flight_max = 6")
            .nodes("in_flight_bytes_max = \"64KiB\"")
            .nodes("queue_bytes_max = \"8MiB\"")
    });
    crowd(&proxy, |_| std::thread::yield_now());
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let (_nodes, proxy) = behind(|setup| {
        setup
            .proxy("output_bytes_soft = \"256KiB\"")
            .proxy("output_bytes_hard = \"64MiB\"")
    });
    let mut client = proxy.client();
    let keys: Vec<String> = (0..8).map(|shard| key_in(shard, 8, "slow:")).collect();
    for (number, key) in keys.iter().enumerate() {
        let value = format!("{key}{}", "z".repeat(50_000 * number));
        client.call(&["SET", key, &value]).expect_ok();
    }
    let asked: Vec<&String> = (0..160).map(|number| &keys[number * 5 % 8]).collect();
    client.send(
        &asked
            .iter()
            .flat_map(|key| frame(&["GET", key]))
            .collect::<Vec<_>>(),
    );
    for key in asked {
        let value = client.reply().text();
        let number = keys.iter().position(|known| known == key).unwrap();
        assert!(value.starts_with(key.as_str()), "another key's value");
        assert_eq!(value.len(), key.len() + 50_000 * number);
        // Now and then the reader looks away.
        if number == 7 {
            std::thread::park_timeout(Duration::from_millis(15));
        }
    }
}

#[test]
fn node_connections_killed_by_the_node_come_back_unnoticed_by_the_next_request() {
    let (nodes, proxy) = behind(|setup| setup);
    let mut client = proxy.client();
    for round in 0..5 {
        for shard in 0..8 {
            client
                .call(&["SET", &key_in(shard, 8, "k"), &round.to_string()])
                .expect_ok();
        }
        for node in &nodes {
            let before = node.links();
            assert!(node.client().ask("CLIENT KILL TYPE normal").int() > 0);
            wait_until("the proxy connects again", PATIENCE, || {
                // All of them: the worker that serves this client has noticed it then, too.
                let now = node.links();
                now.len() >= before.len() && now.is_disjoint(&before)
            });
        }
    }
}

#[test]
fn a_flood_upon_one_shard_does_not_starve_the_others_of_its_node() {
    let (_nodes, proxy) = behind(|setup| setup.proxy("workers = 1"));
    let (flooded, other) = (key_in(1, 8, "flood:"), key_in(2, 8, "other:"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for size in [100, 30_000] {
            let (done, flooded, proxy) = (&done, &flooded, &proxy);
            scope.spawn(move || {
                let mut client = proxy.client();
                let bytes = frame(&["SET", flooded, &"x".repeat(size)]).repeat(100);
                while !done.load(Ordering::Relaxed) {
                    client.send(&bytes);
                    for _ in 0..100 {
                        client.reply().expect_ok();
                    }
                }
            });
        }
        let mut client = proxy.client();
        let (start, metronome) = (Instant::now(), Metronome::start());
        let mut slowest = Duration::ZERO;
        while start.elapsed() < Duration::from_millis(1500) {
            let asked = Instant::now();
            client.call(&["SET", &other, "small"]).expect_ok();
            client.call(&["SET", &other, &"y".repeat(50_000)]).expect_ok();
            slowest = slowest.max(asked.elapsed());
        }
        done.store(true, Ordering::Relaxed);
        let late = metronome.late();
        assert!(
            slowest < Duration::from_millis(600) + late,
            "two requests to another shard took {slowest:?}, late {late:?}"
        );
    });
}
