//! One worker's subscriptions on one node, as data: what was asked and not yet confirmed, and what the node says.
//!
//! ```text
//!  out: SUBSCRIBE a · UNSUBSCRIBE b ──▶ node ──▶ >subscribe a · >message a … · >unsubscribe b
//!  due: [ a, b ] ── each confirmation must be the one at the front; anything else puts the connection in doubt
//! ```

use std::collections::VecDeque;

use super::directory::Name;
use super::names::Kind;
use crate::resp::{self, elements};

/// Whether a worker hears a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum State {
    /// Nobody listens to anything.
    Off,
    /// Being connected: who subscribes waits for it.
    Connecting,
    /// Connected.
    Up,
    /// Could not be connected: who subscribes does not wait for it.
    Down,
    /// The node has left.
    Left,
}

/// What was asked of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Subscribe(Kind, Name),
    Unsubscribe(Kind, Name),
    /// To tell of every change of a key.
    Track,
    Untrack,
    Ping,
}

/// The connection's state.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) state: State,
    /// To be sent.
    pub(super) out: Vec<u8>,
    /// Unconfirmed, each with the round in which it was asked.
    due: VecDeque<(u64, Due)>,
    /// The node tells of every change of a key.
    pub(super) tracks: bool,
    /// The node refuses to: its error line.
    pub(super) tracking_refused: Option<Vec<u8>>,
}

/// A message of a node, in its own names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: Kind,
    /// The channel or pattern that was asked for.
    pub(super) asked: &'a [u8],
    pub(super) channel: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// What a frame of a node means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Message(Message<'a>),
    /// The oldest request is confirmed.
    Confirmed,
    /// The node refuses the oldest request, a subscription: its error line.
    Refused(Kind, Name, &'a [u8]),
}

/// A frame that cannot be: the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Doubt;

// === impl Line ===

impl Line {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Off,
            out: Vec::new(),
            due: VecDeque::new(),
            tracks: false,
            tracking_refused: None,
        }
    }

    /// Up to which round the node has confirmed all that it was asked; what cannot be waited for does not count.
    pub(super) fn confirmed(&self) -> u64 {
        match self.state {
            State::Off | State::Down | State::Left => u64::MAX,
            State::Connecting => 0,
            State::Up => self
                .due
                .front()
                .map_or(u64::MAX, |(round, _)| round.saturating_sub(1)),
        }
    }

    pub(super) fn awaits(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn subscribe(&mut self, round: u64, kind: Kind, name: &Name) {
        resp::write_request(&mut self.out, &[kind.subscribe().as_bytes(), name]);
        self.due
            .push_back((round, Due::Subscribe(kind, Name::clone(name))));
    }

    pub(super) fn unsubscribe(&mut self, round: u64, kind: Kind, name: &Name) {
        resp::write_request(&mut self.out, &[kind.unsubscribe().as_bytes(), name]);
        self.due
            .push_back((round, Due::Unsubscribe(kind, Name::clone(name))));
    }

    /// Asks to be told of every change of a key: of all keys, since the node does not see who reads what.
    pub(super) fn track(&mut self, round: u64) {
        resp::write_request(&mut self.out, &[b"CLIENT", b"TRACKING", b"ON", b"BCAST"]);
        self.due.push_back((round, Due::Track));
    }

    pub(super) fn untrack(&mut self, round: u64) {
        resp::write_request(&mut self.out, &[b"CLIENT", b"TRACKING", b"OFF"]);
        self.due.push_back((round, Due::Untrack));
        self.tracks = false;
        self.tracking_refused = None;
    }

    pub(super) fn ping(&mut self, round: u64) {
        resp::write_request(&mut self.out, &[b"PING"]);
        self.due.push_back((round, Due::Ping));
    }

    /// The connection has ended, or begins.
    pub(super) fn clear(&mut self, state: State) {
        *self = Self { state, ..Self::new() };
    }

    /// Takes one frame of the node in.
    pub(super) fn hear<'a>(&mut self, frame: &'a [u8]) -> Result<Heard<'a>, Doubt> {
        match frame.first() {
            Some(b'>') => self.hear_push(frame),
            Some(b'-') => match self.due.pop_front() {
                Some((_, Due::Subscribe(kind, name))) => Ok(Heard::Refused(kind, name, frame)),
                Some((_, Due::Track)) => {
                    self.tracking_refused = Some(frame.to_vec());
                    Ok(Heard::Confirmed)
                }
                // Where it was never on.
                Some((_, Due::Untrack)) => Ok(Heard::Confirmed),
                // It is there, and runs a script.
                Some((_, Due::Ping)) if frame.starts_with(b"-BUSY ") => Ok(Heard::Confirmed),
                Some((_, Due::Unsubscribe(..) | Due::Ping)) | None => Err(Doubt),
            },
            Some(_) | None => match self.due.pop_front() {
                Some((_, Due::Ping)) if frame == b"+PONG\r\n" => Ok(Heard::Confirmed),
                Some((_, Due::Track)) if frame == b"+OK\r\n" => {
                    // It may have been asked meanwhile to stop.
                    self.tracks = !self.due.iter().any(|(_, due)| *due == Due::Untrack);
                    Ok(Heard::Confirmed)
                }
                Some((_, Due::Untrack)) if frame == b"+OK\r\n" => Ok(Heard::Confirmed),
                _ => Err(Doubt),
            },
        }
    }

    fn hear_push<'a>(&mut self, frame: &'a [u8]) -> Result<Heard<'a>, Doubt> {
        if let Some(message) = Message::begun(frame) {
            return Ok(Heard::Message(message));
        }
        let mut parts = elements(frame).ok_or(Doubt)?;
        let mut next = || parts.next().and_then(resp::bulk).ok_or(Doubt);
        let (word, first) = (next()?, next()?);
        let (expected, name) = match self.due.pop_front() {
            Some((_, Due::Subscribe(kind, name))) => (kind.subscribe(), name),
            Some((_, Due::Unsubscribe(kind, name))) => (kind.unsubscribe(), name),
            Some((_, Due::Track | Due::Untrack | Due::Ping)) | None => return Err(Doubt),
        };
        if word == expected.as_bytes() && *first == *name {
            Ok(Heard::Confirmed)
        } else {
            Err(Doubt)
        }
    }
}

impl<'a> Message<'a> {
    /// The message of a frame, or of the start of one. `None` if it is none, or its names have not come.
    pub(super) fn begun(frame: &'a [u8]) -> Option<Self> {
        let mut parts = elements(frame)?;
        let mut next = || parts.next().and_then(resp::bulk);
        let word = next()?;
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| word == kind.message().as_bytes())?;
        let asked = next()?;
        let channel = if kind == Kind::Pattern { next()? } else { asked };
        Some(Self {
            kind,
            asked,
            channel,
            payload: next().unwrap_or_default(),
        })
    }
}
