//! Clients that listen: each message is one of a channel that they asked for, and none comes twice or too late.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::ledger::SHARED;
use super::model::leaves;
use super::plan::Stage;
use crate::harness::wire::decode;
use crate::harness::{Client, Reply};

pub(super) struct Listener<'a> {
    stage: &'a Stage<'a>,
    random: fastrand::Rng,
    number: usize,
    /// The newest token of each sender, epoch and channel.
    newest: HashMap<(String, String, String), u64>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(stage: &'a Stage<'a>, number: usize) -> Self {
        Self {
            stage,
            random: fastrand::Rng::with_seed(stage.seed ^ 0x5eed ^ number as u64),
            number,
            newest: HashMap::new(),
        }
    }

    pub(super) fn live(&mut self) {
        while !self.stage.is_over() {
            self.newest.clear();
            self.session();
        }
    }

    fn session(&mut self) {
        let three = self.random.bool();
        let mut client = if three {
            self.stage.proxy.client3()
        } else {
            self.stage.proxy.client()
        };
        let channels: Vec<usize> = (0..SHARED).filter(|_| self.random.bool()).collect();
        if channels.is_empty() {
            return;
        }
        let mut words = vec!["SUBSCRIBE".to_owned()];
        words.extend(channels.iter().map(|channel| format!("channel:{channel}")));
        client.command(&words);
        let end = Instant::now() + Duration::from_millis(self.random.u64(10..400));
        let (mut confirmed, mut pings) = (0, 0);
        while Instant::now() < end && !self.stage.is_over() {
            if self.random.u8(0..20) == 0 && confirmed == channels.len() {
                pings += 1;
                client.command(&["PING", &format!("ping {} {pings}", self.number)]);
                self.await_pong(&mut client, &channels, three, pings);
                continue;
            }
            client.limit = Duration::from_millis(10);
            let bytes = match client.try_reply_bytes() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::TimedOut => continue,
                Err(error) => panic!("listener {}, seed {}: {error}", self.number, self.stage.seed),
            };
            let reply = decode(&bytes);
            let found = leaves(&reply);
            if found.first().is_some_and(|kind| kind == "subscribe") && confirmed < channels.len() {
                assert_eq!(found[1], format!("channel:{}", channels[confirmed]));
                confirmed += 1;
                assert_eq!(found[2], format!(":{confirmed}"));
            } else if self.stage.plan.failure(&reply).is_some() && confirmed == 0 {
                // A node has refused; nothing is subscribed to.
                return;
            } else {
                self.message(&reply, &channels, three);
            }
        }
        if self.random.bool() {
            let _ = socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO));
        }
    }

    fn await_pong(&mut self, client: &mut Client, channels: &[usize], three: bool, number: u32) {
        client.limit = Duration::from_secs(15);
        let token = format!("ping {} {number}", self.number);
        loop {
            let reply = client.reply();
            let found = leaves(&reply);
            let pong = if three {
                vec![token.as_str()]
            } else {
                vec!["pong", &token]
            };
            if found == pong {
                return;
            }
            self.message(&reply, channels, three);
        }
    }

    fn message(&mut self, reply: &Reply, channels: &[usize], three: bool) {
        let found = leaves(reply);
        let wrong = || -> ! {
            panic!(
                "listener {} of {channels:?}, seed {}: {reply:?}",
                self.number, self.stage.seed
            )
        };
        let ([kind, from, payload], true) = (found.as_slice(), matches!(reply, Reply::Push(_)) == three)
        else {
            wrong()
        };
        let parts: Vec<&str> = payload.split('|').collect();
        let [token, channel, epoch] = parts.as_slice() else {
            wrong()
        };
        let asked = channels.iter().any(|asked| asked.to_string() == *channel);
        if kind != "message" || *from != format!("channel:{channel}") || !asked {
            wrong();
        }
        let Some((sender, count)) = token.trim_matches(['<', '>']).split_once('.') else {
            wrong()
        };
        let count: u64 = count.parse().unwrap_or_else(|_| wrong());
        let sent_by = (sender.to_owned(), (*epoch).to_owned(), (*channel).to_owned());
        if self
            .newest
            .insert(sent_by, count)
            .is_some_and(|last| last >= count)
        {
            wrong();
        }
        self.stage.counts.messages.fetch_add(1, Relaxed);
    }
}
