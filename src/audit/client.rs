//! One client: its bytes cut into requests, and what it has selected, queued, watched and called itself.

use super::Audit;
use super::judge::{Judged, State};
use super::tally::{NAMELESS, Tally, Who};
use crate::command::Local;
use crate::resp::{self, ArgRange, Args, RequestLimits, RequestScanner, Scan};

/// Requests that a client may send before it says who it is, and that are counted for its name all the same.
const EARLY_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;

/// What is known of one client.
#[derive(Debug, Default)]
pub struct AuditedClient {
    scanner: RequestScanner,
    ranges: Vec<ArgRange>,
    /// The start of a request that has not ended.
    partial: Vec<u8>,
    state: State,
    name: String,
    library: String,
    who: Who,
    /// What was asked before the first command that is no greeting.
    early: Vec<(Judged, u16)>,
    greeted: bool,
    blind: bool,
}

impl Audit {
    /// A client has connected.
    pub fn connect(&mut self) -> AuditedClient {
        self.tally.connections += 1;
        AuditedClient {
            who: NAMELESS,
            ..AuditedClient::default()
        }
    }

    /// Judges what a client has sent. The bytes go on their way whatever comes of it.
    pub fn read(&mut self, client: &mut AuditedClient, bytes: &[u8]) {
        if client.blind {
            return;
        }
        if client.partial.is_empty() {
            let used = self.requests(client, bytes);
            if client.blind || used == bytes.len() {
                return;
            }
            client.partial.extend_from_slice(&bytes[used..]);
            self.held += bytes.len() - used;
        } else {
            client.partial.extend_from_slice(bytes);
            self.held += bytes.len();
            let partial = std::mem::take(&mut client.partial);
            let used = self.requests(client, &partial);
            client.partial = partial;
            self.held -= used;
            client.partial.drain(..used);
            if client.partial.is_empty() {
                client.partial = Vec::new();
            }
        }
        if self.held > self.held_max {
            self.give_up(client, "it sent larger requests than the audit can hold");
        }
    }

    /// A client has left.
    pub fn disconnect(&mut self, mut client: AuditedClient) {
        client.count_early(&mut self.tally);
        self.held -= client.partial.len();
    }

    /// Judges whole requests; returns the bytes that they took.
    fn requests(&mut self, client: &mut AuditedClient, bytes: &[u8]) -> usize {
        let mut at = 0;
        let limits = RequestLimits::default();
        while at < bytes.len() {
            let rest = &bytes[at..];
            let mut ranges = std::mem::take(&mut client.ranges);
            let scan = client.scanner.scan(rest, &mut ranges, &limits);
            match scan {
                Scan::Frame { end } => {
                    self.request(client, &Args::new(&rest[..end], &ranges));
                    at += end;
                }
                Scan::Inline { end } => {
                    at += end;
                    if let Err(error) = self.inline(client, &rest[..end]) {
                        self.give_up(client, &error.to_string());
                    }
                }
                Scan::Empty { end } => at += end,
                Scan::Incomplete { .. } => {
                    client.ranges = ranges;
                    return at;
                }
                Scan::Fail(error) => self.give_up(client, &error.to_string()),
            }
            client.ranges = ranges;
            if client.blind {
                return bytes.len();
            }
        }
        at
    }

    /// A line of words, judged as the frame that a library would have sent.
    fn inline(&mut self, client: &mut AuditedClient, line: &[u8]) -> Result<(), resp::ProtocolError> {
        let (mut frame, mut ranges) = (Vec::new(), Vec::new());
        resp::inline::to_frame(line, &mut frame)?;
        let scan = RequestScanner::default().scan(&frame, &mut ranges, &RequestLimits::default());
        if matches!(scan, Scan::Frame { .. }) {
            self.request(client, &Args::new(&frame, &ranges));
        }
        Ok(())
    }

    fn request(&mut self, client: &mut AuditedClient, args: &Args<'_>) {
        let db = client.state.db;
        let judged = self.judge.judge(&mut client.state, args);
        client.learn_name(judged.local, args, &mut self.tally);
        if !client.greeted && is_greeting(&judged) && client.early.len() < EARLY_MAX {
            client.early.push((judged, db));
            return;
        }
        client.count_early(&mut self.tally);
        client.greeted = true;
        self.tally.count(client.who, judged, db);
    }

    /// Nothing more can be said of this client: where its next request begins is not known.
    fn give_up(&mut self, client: &mut AuditedClient, why: &str) {
        client.count_early(&mut self.tally);
        client.blind = true;
        self.held -= client.partial.len();
        client.partial = Vec::new();
        self.tally.cannot_judge(client.who, why);
    }
}

impl AuditedClient {
    fn learn_name(&mut self, local: Option<Local>, args: &Args<'_>, tally: &mut Tally) {
        match local {
            Some(Local::ClientSetname) => self.name = shown(args.get(2)),
            Some(Local::ClientSetinfo) if args.get(2).eq_ignore_ascii_case(b"LIB-NAME") => {
                self.library = shown(args.get(3));
            }
            Some(Local::Hello) => {
                let option = |at: &usize| args.get(*at).eq_ignore_ascii_case(b"SETNAME");
                let Some(at) = (2..args.len()).find(option) else {
                    return;
                };
                self.name = shown(args.get(at + 1));
            }
            Some(_) | None => return,
        }
        let name = if self.name.is_empty() {
            &self.library
        } else {
            &self.name
        };
        self.who = tally.who(name);
    }

    fn count_early(&mut self, tally: &mut Tally) {
        for (judged, db) in self.early.drain(..) {
            tally.count(self.who, judged, db);
        }
    }
}

/// What a library sends by itself when it connects.
fn is_greeting(judged: &Judged) -> bool {
    judged.spec.is_some_and(|spec| spec.facts.group == "connection")
}

/// A name as it may stand in a report.
fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(NAME_BYTES_MAX)];
    let text = String::from_utf8_lossy(cut);
    text.chars().filter(|c| !c.is_control()).collect()
}
