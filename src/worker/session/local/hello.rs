//! Who the client is and how it speaks: HELLO, AUTH, SELECT, RESET.

use std::sync::atomic::Ordering::Relaxed;

use super::{number, ok};
use crate::command::Local;
use crate::resp::{Args, Protocol, Value};
use crate::worker::engine::Engine;
use crate::worker::registry::{NAME_MAX, is_client_name};
use crate::worker::session::client::Special;
use crate::worker::session::dispatch::NOAUTH_HELLO;

const NOT_CONFIGURED: &str = "ERR AUTH <password> called without any password configured for the default user. Are \
                              you sure your configuration is correct?";

/// What stands behind the version of a `HELLO`. Of an option that comes twice the last one counts.
#[derive(Debug, Default)]
pub(in crate::worker::session) struct HelloOptions<'a> {
    /// A user, and a password for it.
    pub(in crate::worker::session) credentials: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl<'a> HelloOptions<'a> {
    /// Reads them. Whoever asks which user a `HELLO` names reads them by this too: a second way to read could find another one.
    ///
    /// # Errors
    /// The error line of an option that is none.
    pub(in crate::worker::session) fn parse(args: &Args<'a>) -> Result<Self, String> {
        let mut options = Self::default();
        let mut at = 2;
        while let Some(option) = args.try_get(at) {
            if option.eq_ignore_ascii_case(b"auth") && at + 2 < args.len() {
                options.credentials = Some((args.get(at + 1), args.get(at + 2)));
                at += 3;
            } else if option.eq_ignore_ascii_case(b"setname") && at + 1 < args.len() {
                options.name = Some(args.get(at + 1));
                at += 2;
            } else {
                return Err(format!(
                    "ERR Syntax error in HELLO option '{}'",
                    String::from_utf8_lossy(option)
                ));
            }
        }
        Ok(options)
    }
}

impl Engine {
    pub(super) fn session_command(&mut self, index: usize, local: Local, args: &Args<'_>) -> Value {
        let outcome = match local {
            Local::Hello => self.hello(index, args),
            Local::Auth => self.auth(index, args),
            Local::Select => self.select(index, args),
            _ => Ok(self.reset(index)),
        };
        outcome.unwrap_or_else(Value::error)
    }

    fn hello(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let mut protocol = self.clients[index].protocol;
        if let Some(version) = args.try_get(1) {
            let version = number(version).ok_or("ERR Protocol version is not an integer or out of range")?;
            protocol = match version {
                2 => Protocol::Resp2,
                3 => Protocol::Resp3,
                _ => return Err("NOPROTO unsupported protocol version".to_owned()),
            };
        }
        let HelloOptions { credentials, name } = HelloOptions::parse(args)?;
        if let Some((user, password)) = credentials {
            self.log_in(index, Some(user), password)?;
        }
        if !self.clients[index].authenticated {
            return Err(NOAUTH_HELLO.to_owned());
        }
        if let Some(name) = name {
            self.set_client_name(index, name)?;
        }
        self.set_protocol(index, protocol);
        Ok(self.greeting(index))
    }

    fn greeting(&self, index: usize) -> Value {
        let client = &self.clients[index];
        let proto = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
        let id = i64::try_from(client.info.id).unwrap_or(i64::MAX);
        Value::Map(vec![
            (Value::bulk("server"), Value::bulk("redis")),
            (Value::bulk("version"), Value::bulk(self.shared.redis_version())),
            (Value::bulk("proto"), Value::Int(proto)),
            (Value::bulk("id"), Value::Int(id)),
            (Value::bulk("mode"), Value::bulk(self.shared.redis_mode())),
            (Value::bulk("role"), Value::bulk("master")),
            (Value::bulk("modules"), Value::Array(Vec::new())),
        ])
    }

    fn auth(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        match args.len() {
            2 if self.shared.users.load().default_user().nopass => Err(NOT_CONFIGURED.to_owned()),
            2 => self.log_in(index, None, args.get(1)),
            3 => self.log_in(index, Some(args.get(1)), args.get(2)),
            _ => Err("ERR syntax error".to_owned()),
        }
        .map(|()| ok())
    }

    fn select(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let db = number(args.get(1)).ok_or("ERR value is not an integer or out of range")?;
        let db = u16::try_from(db).ok().filter(|&db| db <= self.topology.pinned);
        let db = db.ok_or("ERR DB index is out of range")?;
        self.clients[index].db = db;
        self.clients[index].info.db.store(db, Relaxed);
        Ok(ok())
    }

    fn reset(&mut self, index: usize) -> Value {
        self.set_protocol(index, Protocol::Resp2);
        self.drop_transaction(index);
        self.release_watch(index);
        self.forget_listener(index);
        self.show_subscriptions(index);
        self.forget_user(index);
        let client = &mut self.clients[index];
        client.special.unset(Special::SILENT);
        client.special.unset(Special::SKIPS_NEXT);
        client.no_evict = false;
        client.no_touch = false;
        client.db = 0;
        client.info.db.store(0, Relaxed);
        client.info.names().name.clear();
        Value::Simple("RESET".into())
    }

    fn set_protocol(&mut self, index: usize, protocol: Protocol) {
        if self.clients[index].protocol == protocol {
            return;
        }
        self.give_up_watch(index);
        let client = &mut self.clients[index];
        self.metrics.client_connections[client.wire()].sub(1);
        client.protocol = protocol;
        self.metrics.client_connections[client.wire()].add(1);
        client
            .info
            .protocol
            .store(if protocol == Protocol::Resp3 { 3 } else { 2 }, Relaxed);
        if protocol == Protocol::Resp2 {
            self.stop_tracking(index);
        }
        self.show_subscriptions(index);
    }

    pub(super) fn set_client_name(&mut self, index: usize, name: &[u8]) -> Result<(), String> {
        let name = std::str::from_utf8(name).ok().filter(|name| is_client_name(name));
        let name = name.ok_or("ERR Client names cannot contain spaces, newlines or special characters.")?;
        if name.len() > NAME_MAX {
            return Err(format!("ERR the client's name is longer than {NAME_MAX} bytes"));
        }
        name.clone_into(&mut self.clients[index].info.names().name);
        Ok(())
    }
}
