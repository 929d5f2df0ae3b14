//! A node as the tests of the hub see it: it answers as Redis does, and forgets all with its connection.

use std::collections::{BTreeSet, VecDeque};

use super::{
    ArgRange, Args, Kind, Protocol, RequestLimits, RequestScanner, Scan, glob_matches, resp,
    write_push_header,
};

/// A node's side of one connection.
#[derive(Default)]
pub(super) struct Server {
    pub(super) up: bool,
    pub(super) subscribed: [BTreeSet<Vec<u8>>; 3],
    pub(super) tracks: bool,
    /// Requests that it has not read.
    pub(super) unread: Vec<u8>,
    /// Frames that the worker has not read.
    pub(super) unheard: VecDeque<Vec<u8>>,
}

fn kind_of(word: &[u8]) -> Option<(Kind, bool)> {
    Kind::ALL.into_iter().find_map(|kind| {
        if word == kind.subscribe().as_bytes() {
            Some((kind, true))
        } else if word == kind.unsubscribe().as_bytes() {
            Some((kind, false))
        } else {
            None
        }
    })
}

pub(super) fn push(words: &[&[u8]], count: Option<i64>) -> Vec<u8> {
    let mut frame = Vec::new();
    let length = words.len() + usize::from(count.is_some());
    write_push_header(&mut frame, Protocol::Resp3, length);
    words.iter().for_each(|word| resp::write_bulk(&mut frame, word));
    if let Some(count) = count {
        resp::write_int(&mut frame, count);
    }
    frame
}

impl Server {
    /// Reads all requests and answers them.
    pub(super) fn serve(&mut self) {
        let unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while at < unread.len() {
            let mut ranges: Vec<ArgRange> = Vec::new();
            let scan = RequestScanner::default().scan(&unread[at..], &mut ranges, &RequestLimits::default());
            let Scan::Frame { end } = scan else {
                panic!("a request that has not ended")
            };
            let args = Args::new(&unread[at..at + end], &ranges);
            if args.get(0) == b"PING" {
                self.unheard.push_back(b"+PONG\r\n".to_vec());
            } else if args.get(0) == b"CLIENT" {
                self.tracks = args.get(2) == b"ON";
                self.unheard.push_back(b"+OK\r\n".to_vec());
            } else {
                let (kind, joins) = kind_of(args.get(0)).unwrap();
                if joins {
                    self.subscribed[kind as usize].insert(args.get(1).to_vec());
                } else {
                    self.subscribed[kind as usize].remove(args.get(1));
                }
                let word = args.get(0).to_ascii_lowercase();
                self.unheard.push_back(push(&[&word, args.get(1)], Some(7)));
            }
            at += end;
        }
    }

    pub(super) fn publish(&mut self, kind: Kind, channel: &[u8], payload: &[u8]) {
        if self.subscribed[kind as usize].contains(channel) {
            self.unheard
                .push_back(push(&[kind.message().as_bytes(), channel, payload], None));
        }
        if kind == Kind::Channel {
            for pattern in &self.subscribed[Kind::Pattern as usize] {
                if glob_matches(pattern, channel, false) {
                    self.unheard
                        .push_back(push(&[b"pmessage", pattern, channel, payload], None));
                }
            }
        }
    }
}
