//! `CLIENT TRACKING`, `CACHING`, `TRACKINGINFO`, `GETREDIR`.
//!
//! Tracking begins when every node that can be reached has confirmed that it tells of changes; what stands behind the
//! request in the pipeline waits for that, so no read is missed. In RESP2 a client could not be told, so it is refused.

use std::sync::atomic::Ordering::Relaxed;

use super::options::{self, Wrong};
use super::tracker::{Mode, Options, Reader, Tracker};
use crate::command::Spec;
use crate::metrics::{Limit, RequestClass};
use crate::resp::{Args, Protocol, Value};
use crate::worker::engine::Engine;
use crate::worker::session::{Special, Taken};

impl Engine {
    /// `CLIENT TRACKING ON|OFF …`. Nothing of the client is under way.
    pub(in crate::worker) fn client_tracking(
        &mut self,
        index: usize,
        spec: &'static Spec,
        args: &Args<'_>,
    ) -> Taken {
        self.count_request(index, spec);
        let had = self.tracking.tracker.reader(index).map(|reader| &reader.options);
        let asked = match options::parse(args, had) {
            Ok(asked) => asked,
            Err(Wrong::Words(line)) => {
                self.answer_error(index, &line);
                return Taken::Yes;
            }
            Err(Wrong::Limit(line)) => {
                self.metrics.limits[Limit::TrackingPrefixes].inc();
                self.answer_error(index, &line);
                return Taken::Yes;
            }
        };
        let Some(asked) = asked else {
            self.stop_tracking(index);
            self.answer(index, b"+OK\r\n", RequestClass::Local);
            return Taken::Yes;
        };
        let client = &self.clients[index];
        if client.protocol == Protocol::Resp2 {
            let line = "ERR CLIENT TRACKING ON needs RESP3 (HELLO 3): in RESP2 a connection cannot be told what to drop, \
                        and REDIRECT is not available through preshard";
            self.answer_error(index, line);
            return Taken::Yes;
        }
        let memory = self.held_bytes + self.pubsub.hub.bytes() + self.tracking.bytes();
        if !asked.prefixes.is_empty()
            && memory + Tracker::cost(&asked.prefixes) > self.settings.limits.request_memory
        {
            self.metrics.limits[Limit::RequestBytesTotal].inc();
            self.answer_error(index, "ERR prefixes need more than request_memory_max");
            return Taken::Yes;
        }
        let request = self.pubsub.hub.track((index, client.generation));
        self.tracking.asked.insert(index, asked);
        let seq = self.push_slot(index, spec.id, args.frame().len(), RequestClass::Local);
        self.pubsub.hub.wait(request, seq);
        self.show_subscriptions(index);
        self.wake_feeds();
        self.answer_subscribers();
        Taken::Yes
    }

    /// The nodes have confirmed what a client has asked for, or one has refused it.
    pub(in crate::worker) fn tracking_answered(&mut self, index: usize, refused: bool) {
        let Some(options) = self.tracking.asked.remove(&index) else {
            return;
        };
        if !refused {
            self.tracking.tracker.start(index, options);
        } else if self.tracking.tracker.reader(index).is_none() {
            self.pubsub.hub.untrack(index);
            self.wake_feeds();
        }
        self.show_tracking(index);
    }

    /// A client tracks no more: it says so, is reset, speaks RESP2, or has left.
    pub(in crate::worker) fn stop_tracking(&mut self, index: usize) {
        self.tracking.asked.remove(&index);
        self.tracking.tracker.stop(index);
        self.pubsub.hub.untrack(index);
        self.wake_feeds();
        if self.clients.contains(index) {
            self.show_tracking(index);
        }
    }

    /// What the session and the registry must know.
    fn show_tracking(&mut self, index: usize) {
        let reader = self.tracking.tracker.reader(index);
        let client = &mut self.clients[index];
        let shown = match reader.map(|reader| reader.options.mode) {
            None => 0,
            Some(Mode::Reads | Mode::OptIn | Mode::OptOut) => 1,
            Some(Mode::Broadcast) => 2,
        };
        client.info.tracking.store(shown, Relaxed);
        if reader.is_some() {
            client.special.set(Special::TRACKING);
        } else {
            client.special.unset(Special::TRACKING);
        }
    }

    /// `CLIENT CACHING YES|NO`: about what follows.
    pub(in crate::worker) fn client_caching(&mut self, index: usize, word: &[u8]) -> Result<(), String> {
        let reader = self.tracking.tracker.reader_mut(index).ok_or(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
        )?;
        let (mode, line) = if word.eq_ignore_ascii_case(b"yes") {
            let line = "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.";
            (Mode::OptIn, line)
        } else if word.eq_ignore_ascii_case(b"no") {
            let line = "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.";
            (Mode::OptOut, line)
        } else {
            return Err("ERR syntax error".to_owned());
        };
        if reader.options.mode != mode {
            return Err(line.to_owned());
        }
        reader.caching = true;
        Ok(())
    }

    /// `CLIENT GETREDIR`: there is no redirection; -1 says that the client does not track.
    pub(in crate::worker) fn client_getredir(&self, index: usize) -> Value {
        let tracks = self.tracking.tracker.reader(index).is_some();
        Value::Int(if tracks { 0 } else { -1 })
    }

    /// `CLIENT TRACKINGINFO`.
    pub(in crate::worker) fn client_trackinginfo(&self, index: usize) -> Value {
        let reader = self.tracking.tracker.reader(index);
        let none = Options::default();
        let options = reader.map_or(&none, |reader| &reader.options);
        let prefixes = options.prefixes.iter();
        Value::Map(vec![
            (Value::bulk("flags"), Value::Set(flags(reader))),
            (Value::bulk("redirect"), self.client_getredir(index)),
            (
                Value::bulk("prefixes"),
                Value::Array(prefixes.map(|prefix| Value::bulk(&**prefix)).collect()),
            ),
        ])
    }
}

fn flags(reader: Option<&Reader>) -> Vec<Value> {
    let Some(reader) = reader else {
        return vec![Value::bulk("off")];
    };
    let mut flags = vec!["on"];
    match reader.options.mode {
        Mode::Reads => {}
        Mode::Broadcast => flags.push("bcast"),
        Mode::OptIn => flags.push("optin"),
        Mode::OptOut => flags.push("optout"),
    }
    match (reader.caching, reader.options.mode) {
        (true, Mode::OptIn) => flags.push("caching-yes"),
        (true, Mode::OptOut) => flags.push("caching-no"),
        (true, Mode::Reads | Mode::Broadcast) | (false, _) => {}
    }
    if reader.options.noloop {
        flags.push("noloop");
    }
    flags.into_iter().map(Value::bulk).collect()
}
