//! What a connection to the admin port may say besides `PRESHARD`: who it is, and how it wants to be answered.
//!
//! Enough for redis-cli and every client library to connect; data commands belong to the data port.

use std::sync::atomic::Ordering::Acquire;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::value::{int, shown};
use super::words::is;
use super::{AdminContext, info};
use crate::acl::Rights;
use crate::config::users::DEFAULT;
use crate::metrics::Refused;
use crate::resp::{Args, Protocol, Value};
use crate::worker::registry::is_client_name;
use crate::worker::users::User;

const NOAUTH: &str = "NOAUTH Authentication required.";
const NOAUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                            <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
                            RESP protocol version at the same time";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const GONE: &str = "NOAUTH the users have changed, and this one may not administer any more";
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
    who: Who,
    /// The users that `who` was looked up among.
    users_generation: u64,
    name: String,
}

/// Who has connected.
#[derive(Debug)]
enum Who {
    /// Nobody yet.
    Stranger,
    /// Anybody, since nothing asks for a password.
    Anybody,
    /// Who knows the password of the admin port.
    Operator,
    /// A user that has one of the rights.
    User(Arc<User>),
}

const EVERY_RIGHT: Rights = Rights::ADMIN.with(Rights::MONITOR);
const NO_RIGHT: &str = "NOPERM this user has neither the right monitor nor the right admin";

impl Session {
    pub(super) fn new(context: Arc<AdminContext>, attempts: Arc<Attempts>) -> Self {
        let id = context.shared.registry.next_id();
        let mut session = Self {
            context,
            attempts,
            id,
            protocol: Protocol::Resp2,
            who: Who::Stranger,
            users_generation: 0,
            name: String::new(),
        };
        session.forget();
        session
    }

    pub(super) const fn is_authenticated(&self) -> bool {
        !matches!(self.who, Who::Stranger)
    }

    /// Whether somebody has to say who he is.
    fn is_guarded(&self) -> bool {
        self.context.live.config().admin.password.is_some()
            || self.context.shared.users.load().may_administer()
    }

    /// Who it is before a password is given.
    fn forget(&mut self) {
        self.users_generation = self.context.shared.users_generation.load(Acquire);
        self.who = if self.is_guarded() {
            Who::Stranger
        } else {
            Who::Anybody
        };
    }

    /// Looks again who it is if the users have changed. `false`: it is nobody any more.
    fn is_still_somebody(&mut self) -> bool {
        let generation = self.context.shared.users_generation.load(Acquire);
        if generation == self.users_generation {
            return true;
        }
        self.users_generation = generation;
        match &mut self.who {
            Who::Stranger | Who::Operator => true,
            Who::Anybody => !self.is_guarded(),
            Who::User(user) => {
                let users = self.context.shared.users.load();
                let found = users.find(user.name.as_bytes());
                match found.filter(|user| user.enabled && user.rules.rights().may_administer()) {
                    Some(found) => *user = Arc::clone(found),
                    None => return false,
                }
                true
            }
        }
    }

    fn rights(&self) -> Rights {
        match &self.who {
            Who::Stranger => Rights::NONE,
            Who::Anybody | Who::Operator => EVERY_RIGHT,
            Who::User(user) => user.rules.rights(),
        }
    }

    /// Appends the one reply to one request. Returns whether the connection ends after it.
    pub(super) async fn handle(&mut self, args: &Args<'_>, out: &mut Vec<u8>) -> bool {
        if !self.is_still_somebody() {
            Value::error(GONE).encode(self.protocol, out);
            return true;
        }
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
        if !self.is_authenticated() {
            return Err(NOAUTH.to_owned());
        }
        if is(name, "PRESHARD") {
            return Ok(self.context.answer_for(self.rights(), args).await);
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
            ("unpause", 2) if !self.rights().has(Rights::ADMIN) => {
                Err("NOPERM this user has no permissions to run the 'client|unpause' command".to_owned())
            }
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
        let name = match args.len() {
            2 if !self.is_guarded() => return Err(NO_PASSWORD.to_owned()),
            2 => DEFAULT.as_bytes(),
            3 => args.get(1),
            _ => return Err("ERR wrong number of arguments for 'auth' command".to_owned()),
        };
        self.log_in(name, args.get(args.len() - 1))
            .await
            .map(|()| Value::OK)
    }

    /// The password of the admin port makes `default` an operator; all others are users.
    async fn log_in(&mut self, name: &[u8], password: &[u8]) -> Result<(), String> {
        if !self.is_guarded() && name == DEFAULT.as_bytes() {
            return Ok(());
        }
        self.attempts.before().await;
        // Both are compared in any case: how long it takes must not tell which half was wrong.
        let user = self.context.shared.users.load().log_in(name, password);
        let config = self.context.live.config();
        let own = config.admin.password.as_ref();
        let operator = own.is_some_and(|own| own.matches(password)) && name == DEFAULT.as_bytes();
        if operator {
            self.who = Who::Operator;
            return Ok(());
        }
        match user {
            Some(user) if user.rules.rights().may_administer() => {
                self.who = Who::User(user);
                Ok(())
            }
            // The password of the data port is none here, and to say more would help who guesses.
            Some(user) if &*user.name == DEFAULT => Err(self.note_wrong()),
            Some(_) => {
                self.context.shared.metrics.control().refused[Refused::Right].add_shared(1);
                Err(NO_RIGHT.to_owned())
            }
            None => Err(self.note_wrong()),
        }
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
            self.log_in(user, password).await?;
        }
        if !self.is_authenticated() {
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
        self.forget();
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
