//! What a connection to the admin port may say besides `PRESHARD`: who it is, and how it wants to be answered.
//!
//! Enough for redis-cli and every client library to connect; data commands belong to the data port.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::value::{int, shown};
use super::words::is;
use super::{AdminContext, info};
use crate::resp::{Args, Protocol, Value};
use crate::worker::registry::is_client_name;

const NOAUTH: &str = "NOAUTH Authentication required.";
const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                            <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
                            RESP protocol version at the same time";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you \
                           sure your configuration is correct?";

/// Wrong passwords this close to each other are taken for guessing.
const GUESSING: Duration = Duration::from_secs(10);

/// The wrong passwords of all connections. While they keep coming, each password is looked at after a pause, also
/// a right one: an answer that came at once would tell the two apart.
#[derive(Debug)]
pub(super) struct Attempts {
    delay: Duration,
    last_wrong: Mutex<Option<Instant>>,
}

impl Attempts {
    pub(super) fn new(delay: Duration) -> Self {
        Self {
            delay,
            last_wrong: Mutex::default(),
        }
    }

    async fn before(&self) {
        let last = *self.last_wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < GUESSING) {
            sleep(self.delay).await;
        }
    }

    fn note_wrong(&self) {
        *self.last_wrong.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Session {
    context: Arc<AdminContext>,
    attempts: Arc<Attempts>,
    id: u64,
    protocol: Protocol,
    authenticated: bool,
    name: String,
}

impl Session {
    pub(super) fn new(context: Arc<AdminContext>, attempts: Arc<Attempts>) -> Self {
        let id = context.shared.registry.next_id();
        let authenticated = context.live.config().admin.password.is_none();
        Self {
            context,
            attempts,
            id,
            protocol: Protocol::Resp2,
            authenticated,
            name: String::new(),
        }
    }

    pub(super) const fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Appends the one reply to one request. Returns whether the connection ends after it.
    pub(super) async fn handle(&mut self, args: &Args<'_>, out: &mut Vec<u8>) -> bool {
        let answer = Box::pin(self.answer(args)).await;
        // After HELLO the reply itself is in the new protocol.
        answer.unwrap_or_else(Value::error).encode(self.protocol, out);
        is(args.get(0), "QUIT")
    }

    async fn answer(&mut self, args: &Args<'_>) -> Result<Value, String> {
        let name = args.get(0);
        if is(name, "AUTH") {
            return self.auth(args).await;
        }
        if is(name, "HELLO") {
            return self.hello(args).await;
        }
        if is(name, "QUIT") {
            return Ok(Value::OK);
        }
        if !self.authenticated {
            return Err(NOAUTH.to_owned());
        }
        if is(name, "PRESHARD") {
            return Ok(self.context.answer(args).await);
        }
        self.small(args)
    }

    /// What clients and tools send of their own accord.
    fn small(&mut self, args: &Args<'_>) -> Result<Value, String> {
        let name = shown(args.get(0)).to_ascii_lowercase();
        match (name.as_str(), args.len()) {
            ("ping", 1) => Ok(Value::Simple("PONG".into())),
            ("ping" | "echo", 2) => Ok(Value::bulk(args.get(1))),
            ("select", 2) => select(args.get(1)),
            ("info", _) => Ok(info::plain(&self.context, args)),
            ("reset", 1) => Ok(self.reset()),
            ("client", 2..) => self.client(args),
            // Nothing to complete or to document: redis-cli asks before its first prompt.
            ("command", 2..) if is(args.get(1), "DOCS") => Ok(Value::Map(Vec::new())),
            ("command", 2) if is(args.get(1), "COUNT") => Ok(Value::Int(0)),
            ("command", _) => Ok(Value::Array(Vec::new())),
            ("ping" | "echo" | "select" | "reset" | "client", _) => {
                Err(format!("ERR wrong number of arguments for '{name}' command"))
            }
            _ => Err(format!(
                "ERR unknown command '{}', this is preshard's admin listener: try PRESHARD HELP here, and other commands on \
                 the data port",
                shown(args.get(0))
            )),
        }
    }

    fn client(&mut self, args: &Args<'_>) -> Result<Value, String> {
        let verb = shown(args.get(1)).to_ascii_lowercase();
        match (verb.as_str(), args.len()) {
            ("id", 2) => Ok(int(self.id)),
            ("getname", 2) if self.name.is_empty() => Ok(Value::Null),
            ("getname", 2) => Ok(Value::bulk(self.name.as_str())),
            ("setname", 3) => self.set_name(args.get(2)).map(|()| Value::OK),
            ("setinfo", 4) => Ok(Value::OK),
            // The way out when all of them are paused: on the data port this would wait as well.
            ("unpause", 2) => {
                self.context.shared.pause.end();
                tracing::info!(event = "clients_unpaused", admin = self.id);
                Ok(Value::OK)
            }
            ("id" | "getname" | "setname" | "setinfo" | "unpause", _) => Err(format!(
                "ERR wrong number of arguments for 'client|{verb}' command"
            )),
            _ => Err(format!(
                "ERR unknown subcommand '{}'. Try CLIENT HELP on the data port, or PRESHARD SHOW CLIENTS.",
                shown(args.get(1))
            )),
        }
    }

    fn set_name(&mut self, name: &[u8]) -> Result<(), String> {
        let name = std::str::from_utf8(name).ok().filter(|name| is_client_name(name));
        let name = name.ok_or("ERR Client names cannot contain spaces, newlines or special characters.")?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    async fn auth(&mut self, args: &Args<'_>) -> Result<Value, String> {
        let known = match args.len() {
            2 if self.context.live.config().admin.password.is_none() => return Err(NO_PASSWORD.to_owned()),
            2 => true,
            3 => args.get(1) == b"default",
            _ => return Err("ERR wrong number of arguments for 'auth' command".to_owned()),
        };
        self.log_in(known, args.get(args.len() - 1))
            .await
            .map(|()| Value::OK)
    }

    async fn log_in(&mut self, known: bool, password: &[u8]) -> Result<(), String> {
        let config = self.context.live.config();
        let Some(expected) = config.admin.password.as_ref().filter(|_| known) else {
            return if known { Ok(()) } else { Err(self.refuse().await) };
        };
        self.attempts.before().await;
        if expected.matches(password) {
            self.authenticated = true;
            return Ok(());
        }
        Err(self.note_wrong())
    }

    /// An unknown user: as slow as a wrong password.
    async fn refuse(&self) -> String {
        self.attempts.before().await;
        self.note_wrong()
    }

    fn note_wrong(&self) -> String {
        self.attempts.note_wrong();
        self.context.shared.metrics.control().auth_failures.add_shared(1);
        tracing::warn!(event = "admin_auth_failed", client = self.id);
        WRONGPASS.to_owned()
    }

    async fn hello(&mut self, args: &Args<'_>) -> Result<Value, String> {
        let protocol = match args.try_get(1) {
            None => self.protocol,
            Some(b"2") => Protocol::Resp2,
            Some(b"3") => Protocol::Resp3,
            Some(other) if other.iter().all(u8::is_ascii_digit) && !other.is_empty() => {
                return Err("NOPROTO unsupported protocol version".to_owned());
            }
            Some(_) => return Err("ERR Protocol version is not an integer or out of range".to_owned()),
        };
        let (mut credentials, mut name, mut at) = (None, None, 2);
        while let Some(option) = args.try_get(at) {
            if is(option, "AUTH") && at + 2 < args.len() {
                credentials = Some((args.get(at + 1), args.get(at + 2)));
                at += 3;
            } else if is(option, "SETNAME") && at + 1 < args.len() {
                name = Some(args.get(at + 1));
                at += 2;
            } else {
                return Err(format!("ERR Syntax error in HELLO option '{}'", shown(option)));
            }
        }
        if let Some((user, password)) = credentials {
            self.log_in(user == b"default", password).await?;
        }
        if !self.authenticated {
            return Err(NOAUTH_HELLO.to_owned());
        }
        if let Some(name) = name {
            self.set_name(name)?;
        }
        self.protocol = protocol;
        Ok(self.greeting())
    }

    fn greeting(&self) -> Value {
        let proto = match self.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        super::value::row([
            ("server", Value::bulk("redis")),
            ("version", Value::bulk(self.context.shared.redis_version())),
            ("proto", Value::Int(proto)),
            ("id", int(self.id)),
            ("mode", Value::bulk("standalone")),
            ("role", Value::bulk("master")),
            ("modules", Value::Array(Vec::new())),
        ])
    }

    fn reset(&mut self) -> Value {
        self.protocol = Protocol::Resp2;
        self.authenticated = self.context.live.config().admin.password.is_none();
        self.name.clear();
        Value::Simple("RESET".into())
    }
}

/// There is one database here, and some clients select it.
fn select(db: &[u8]) -> Result<Value, String> {
    match std::str::from_utf8(db).ok().and_then(|db| db.parse::<i64>().ok()) {
        Some(0) => Ok(Value::OK),
        Some(_) => Err("ERR DB index is out of range".to_owned()),
        None => Err("ERR value is not an integer or out of range".to_owned()),
    }
}
