//! A node: databases, users and what they may do, transactions, and the history of its writes. No clock, no expiry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::data::{self, Data, Db, name_of};
use super::faults::Users;
use super::world::{World, lock};
use crate::command::UNIT_PREFIX;
use crate::config::{PasswordHash, Secret};
use crate::resp::Value;
use crate::topology::Address;

pub(super) type Words = Vec<Vec<u8>>;

pub(super) const NOPERM: &str = "NOPERM User has no permissions to run the command";

#[derive(Clone, Copy, Debug, Default)]
struct Rights {
    all: bool,
    read: bool,
    select: bool,
    ping: bool,
}

#[derive(Clone, Debug, Default)]
struct User {
    hash: Vec<u8>,
    rights: Rights,
}

/// Whether a connection was ended by the node.
#[derive(Debug, Default)]
pub(super) struct Killed {
    dead: AtomicBool,
    pub(super) rung: Notify,
}

impl Killed {
    pub(super) fn is(&self) -> bool {
        self.dead.load(Relaxed)
    }

    fn kill(&self) {
        self.dead.store(true, Relaxed);
        self.rung.notify_waiters();
        self.rung.notify_one();
    }
}

#[derive(Debug, Default)]
struct Conn {
    user: String,
    db: u16,
    who: Option<usize>,
    queued: Option<Vec<Words>>,
    spoilt: bool,
    watched: Vec<(u16, Vec<u8>)>,
    touched: bool,
    killed: Arc<Killed>,
}

#[derive(Debug)]
struct State {
    run: u64,
    offset: u64,
    dbs: BTreeMap<u16, Db>,
    users: BTreeMap<String, User>,
    saved: BTreeMap<String, User>,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    /// Every write of this run: where its history is behind it, in which database, what.
    log: Vec<(u64, u16, Words)>,
    /// Users of moving shards that have lost their rights.
    frozen: BTreeSet<String>,
    stands_until: Instant,
    down_until: Instant,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) address: Address,
    state: Mutex<State>,
    pub(super) wrote: Notify,
}

/// Who asks, as far as the rules of a move are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Administrator,
    Applier,
    Client,
}

impl Node {
    pub(super) fn new(index: usize) -> Arc<Self> {
        Arc::new(Self {
            index,
            name: format!("n{index}"),
            address: format!("127.0.0.1:{}", 7001 + index).parse().unwrap(),
            state: Mutex::new(State {
                run: 1,
                offset: 1,
                dbs: BTreeMap::new(),
                users: BTreeMap::new(),
                saved: BTreeMap::new(),
                conns: BTreeMap::new(),
                next_conn: 1,
                log: Vec::new(),
                frozen: BTreeSet::new(),
                stands_until: Instant::now(),
                down_until: Instant::now(),
            }),
            wrote: Notify::new(),
        })
    }

    // === seen from outside ===

    pub(super) fn run_id(&self) -> String {
        run_id(self.index, lock(&self.state).run)
    }

    pub(super) fn put(&self, db: u16, key: &str, value: &str) {
        let mut state = lock(&self.state);
        let data = Data::Text(value.as_bytes().to_vec());
        state
            .dbs
            .entry(db)
            .or_default()
            .insert(key.as_bytes().to_vec(), data);
    }

    pub(super) fn make_user(&self, user: &str, password: &Secret) {
        let hash = PasswordHash::of(password.reveal().as_bytes())
            .to_acl()
            .into_bytes();
        let rights = Rights {
            all: true,
            ..Rights::default()
        };
        lock(&self.state)
            .users
            .insert(user.to_owned(), User { hash, rights });
        self.save_users();
    }

    pub(super) fn save_users(&self) {
        let mut state = lock(&self.state);
        state.saved = state.users.clone();
    }

    /// A whole database.
    pub(super) fn db(&self, db: u16) -> Db {
        lock(&self.state).dbs.get(&db).cloned().unwrap_or_default()
    }

    pub(super) fn keys(&self, db: u16) -> u64 {
        lock(&self.state).dbs.get(&db).map_or(0, |db| db.len() as u64)
    }

    /// Run and offset.
    pub(super) fn position(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.run, state.offset)
    }

    pub(super) fn replid(&self) -> String {
        format!("replid-{}-{}", self.index, lock(&self.state).run)
    }

    /// What was written behind an offset; nothing if that is another run's history, or is to come yet.
    pub(super) fn since(&self, run: u64, offset: u64) -> Option<Vec<(u64, u16, Words)>> {
        let state = lock(&self.state);
        let from = state.log.partition_point(|(end, ..)| *end <= offset);
        (state.run == run && offset <= state.offset).then(|| state.log[from..].to_vec())
    }

    /// Whether a user of such a name may do anything.
    pub(super) fn may_write(&self, is: impl Fn(&str) -> bool) -> bool {
        let state = lock(&self.state);
        state.users.iter().any(|(name, user)| is(name) && user.rights.all)
    }

    pub(super) fn is_down(&self) -> bool {
        lock(&self.state).down_until > Instant::now()
    }

    pub(super) async fn until_awake(&self) {
        loop {
            let until = lock(&self.state).stands_until;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    // === faults ===

    pub(super) fn stand(&self, lasting: Duration) {
        lock(&self.state).stands_until = Instant::now() + lasting;
    }

    pub(super) fn cut(&self, who: usize) {
        let mut state = lock(&self.state);
        let theirs = state.conns.extract_if(.., |_, conn| conn.who == Some(who));
        theirs.for_each(|(_, conn)| conn.killed.kill());
    }

    pub(super) fn kill(&self, conn: u64) {
        if let Some(conn) = lock(&self.state).conns.remove(&conn) {
            conn.killed.kill();
        }
    }

    pub(super) fn restart(&self, world: &World, users: Users, down: Duration) {
        let mut state = lock(&self.state);
        std::mem::take(&mut state.conns)
            .into_values()
            .for_each(|conn| conn.killed.kill());
        state.run += 1;
        state.offset = 1;
        state.log.clear();
        state.down_until = Instant::now() + down;
        match users {
            Users::Kept => {}
            Users::Saved => state.users = state.saved.clone(),
            Users::Lost => state.users.clear(),
        }
        self.wrote.notify_waiters();
        world.tell(|| format!("{} restarted as run {}", self.name, state.run));
    }

    // === connections ===

    /// A new connection; none: nobody listens.
    pub(super) fn accept(&self) -> Option<(u64, Arc<Killed>)> {
        let mut state = lock(&self.state);
        if state.down_until > Instant::now() {
            return None;
        }
        let number = state.next_conn;
        state.next_conn += 1;
        let conn = Conn::default();
        let killed = Arc::clone(&conn.killed);
        state.conns.insert(number, conn);
        Some((number, killed))
    }

    pub(super) fn hang_up(&self, conn: u64) {
        lock(&self.state).conns.remove(&conn);
    }

    pub(super) fn who(&self, conn: u64) -> Option<usize> {
        lock(&self.state).conns.get(&conn)?.who
    }

    /// Which proxy it is, for links that do not say it by their login.
    pub(super) fn set_who(&self, conn: u64, who: usize) {
        if let Some(conn) = lock(&self.state).conns.get_mut(&conn) {
            conn.who = Some(who);
        }
    }

    /// One command. Nothing: the connection has ended.
    pub(super) fn call(&self, world: &World, number: u64, words: &Words) -> Option<Value> {
        let mut state = lock(&self.state);
        let mut conn = state.conns.remove(&number)?;
        let name = name_of(words);
        let reply = match (name.as_str(), &mut conn.queued) {
            ("AUTH", _) => state.auth(&mut conn, words),
            ("EXEC", queued @ Some(_)) => {
                let queued = queued.take().unwrap_or_default();
                self.exec(world, &mut state, &mut conn, &queued)
            }
            ("DISCARD", queued @ Some(_)) => {
                *queued = None;
                conn.watched.clear();
                Value::OK
            }
            (_, Some(_)) if !state.may(&conn.user, &name) => {
                conn.spoilt = true;
                Value::error(NOPERM)
            }
            (_, Some(queued)) => {
                queued.push(words.clone());
                Value::Simple("QUEUED".into())
            }
            (_, None) if !state.may(&conn.user, &name) => Value::error(NOPERM),
            ("MULTI", None) => {
                (conn.queued, conn.spoilt) = (Some(Vec::new()), false);
                Value::OK
            }
            ("WATCH", None) => {
                (conn.watched, conn.touched) = (vec![(conn.db, words[1].clone())], false);
                Value::OK
            }
            ("UNWATCH", None) => {
                conn.watched.clear();
                Value::OK
            }
            (_, None) => self.run(world, &mut state, &mut conn, words),
        };
        if !conn.killed.is() {
            state.conns.insert(number, conn);
        }
        Some(reply)
    }

    fn exec(&self, world: &World, state: &mut State, conn: &mut Conn, queued: &[Words]) -> Value {
        conn.watched.clear();
        if conn.spoilt {
            return Value::error("EXECABORT Transaction discarded because of previous errors.");
        }
        if conn.touched {
            conn.touched = false;
            return Value::NullArray;
        }
        let replies = queued.iter().map(|words| {
            if state.may(&conn.user, &name_of(words)) {
                self.run(world, state, conn, words)
            } else {
                Value::error(NOPERM)
            }
        });
        Value::Array(replies.collect())
    }

    /// A command that may run.
    fn run(&self, world: &World, state: &mut State, conn: &mut Conn, words: &Words) -> Value {
        let text =
            |at: usize| String::from_utf8_lossy(words.get(at).map_or(&[][..], |word| word)).into_owned();
        let name = name_of(words);
        match name.as_str() {
            "PING" => return Value::Simple("PONG".into()),
            "SELECT" => {
                conn.db = text(1).parse().unwrap();
                return Value::OK;
            }
            "INFO" => return Value::bulk(self.info(state)),
            "FUNCTION" | "MODULE" | "CONFIG" => return Value::Array(Vec::new()),
            // All clocks are one.
            "TIME" => return Value::Array(["1700000000", "0"].map(Value::bulk).into()),
            "ACL" => return state.acl(world, &self.name, words),
            "CLIENT" => return Value::Int(1),
            _ => {}
        }
        let role = match conn.user.as_str() {
            user if user.starts_with("admin-") => Role::Administrator,
            user if user.starts_with("ps-a-") => Role::Applier,
            _ => Role::Client,
        };
        let is_write = !matches!(name.as_str(), "GET" | "DBSIZE" | "HGET" | "HMGET" | "HKEYS");
        let before = state.dbs.get(&conn.db).is_none_or(Db::is_empty);
        let reply = data::run(state.dbs.entry(conn.db).or_default(), words);
        if is_write {
            state.log_write(conn, words);
            self.wrote.notify_waiters();
        }
        let owns = world.store.owner(conn.db) == Some(self.index);
        let what = || {
            format!(
                "{} {} {} in db {} as {}",
                self.name,
                name,
                text(1),
                conn.db,
                conn.user
            )
        };
        match role {
            Role::Client if !owns => world.judge.wrong(world, || {
                format!("I1: {} was served, and another node has the shard", what())
            }),
            Role::Applier if owns && is_write => world.judge.wrong(world, || {
                format!(
                    "I4: {} was written by a copy, and clients are served there",
                    what()
                )
            }),
            Role::Administrator if owns && name == "FLUSHDB" && !before => world.judge.wrong(world, || {
                format!("cleared: {} is what clients are served", what())
            }),
            Role::Client | Role::Applier | Role::Administrator => {}
        }
        if role == Role::Administrator && name == "FLUSHDB" {
            world.tell(|| format!("{} cleared db {}", self.name, conn.db));
        }
        reply
    }

    fn info(&self, state: &State) -> String {
        format!(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:{}\r\n# Replication\r\nrole:master\r\nmaster_replid:replid-{}-{}\r\n\
             master_repl_offset:{}\r\nrepl_backlog_active:1\r\n",
            run_id(self.index, state.run),
            self.index,
            state.run,
            state.offset
        )
    }
}

fn run_id(index: usize, run: u64) -> String {
    format!("run{index}x{run}")
}

// === impl State ===

impl State {
    fn may(&self, user: &str, command: &str) -> bool {
        if user.starts_with("admin-") {
            return true;
        }
        let Some(User { rights, .. }) = self.users.get(user) else {
            return false;
        };
        match command {
            "PING" if rights.ping => true,
            "SELECT" if rights.select => true,
            "GET" | "DBSIZE" if rights.read => true,
            _ => rights.all,
        }
    }

    fn auth(&self, conn: &mut Conn, words: &Words) -> Value {
        let [_, user, password] = &words[..] else {
            return Value::error("WRONGPASS invalid username-password pair");
        };
        let user = String::from_utf8_lossy(user).into_owned();
        let known = if let Some(who) = user.strip_prefix("admin-") {
            conn.who = who.parse().ok();
            true
        } else {
            let hash = PasswordHash::of(password).to_acl().into_bytes();
            self.users.get(&user).is_some_and(|known| known.hash == hash)
        };
        if !known {
            return Value::error("WRONGPASS invalid username-password pair or user is disabled.");
        }
        conn.user = user;
        Value::OK
    }

    fn acl(&mut self, world: &World, node: &str, words: &Words) -> Value {
        let reply = self.change_users(world, node, words);
        // Somebody has its users written to the disk now and then.
        if self.offset.is_multiple_of(3) {
            self.saved = self.users.clone();
        }
        reply
    }

    fn change_users(&mut self, world: &World, node: &str, words: &Words) -> Value {
        let word = |at: usize| String::from_utf8_lossy(&words[at]).into_owned();
        match word(1).to_ascii_uppercase().as_str() {
            "USERS" => Value::Array(self.users.keys().map(|user| Value::bulk(user.as_str())).collect()),
            "LIST" => {
                let lines = self
                    .users
                    .keys()
                    .map(|user| Value::bulk(format!("user {user} on")));
                Value::Array(lines.collect())
            }
            "SETUSER" => {
                let user = self.users.entry(word(2)).or_default();
                for rule in &words[3..] {
                    match rule.as_slice() {
                        b"reset" => *user = User::default(),
                        b"+@all" => user.rights.all = true,
                        b"-@all" => user.rights = Rights::default(),
                        b"+@read" => user.rights.read = true,
                        b"+select" => user.rights.select = true,
                        b"+ping" => user.rights.ping = true,
                        hash if hash.first() == Some(&b'#') => user.hash = hash.to_vec(),
                        _ => {}
                    }
                }
                let rights = user.rights;
                if word(2).starts_with(UNIT_PREFIX) && !rights.all {
                    self.frozen.insert(word(2));
                } else if self.frozen.contains(&word(2)) {
                    world.judge.wrong(world, || {
                        format!(
                            "I2: {} has lost its rights on {node}, and gets them back",
                            word(2)
                        )
                    });
                }
                world.tell(|| format!("{node} user {} {rights:?}", word(2)));
                Value::OK
            }
            "DELUSER" => {
                let mut gone = 0;
                for at in 2..words.len() {
                    let name = word(at);
                    if self.users.remove(&name).is_none() {
                        continue;
                    }
                    gone += 1;
                    let theirs = self.conns.extract_if(.., |_, conn| conn.user == name);
                    theirs.for_each(|(_, conn)| conn.killed.kill());
                    world.tell(|| format!("{node} user {name} deleted"));
                }
                Value::Int(gone)
            }
            other => Value::error(format!("ERR unknown ACL {other}")),
        }
    }

    fn log_write(&mut self, writer: &Conn, words: &Words) {
        self.offset += 10 + words.iter().map(|word| word.len() as u64).sum::<u64>();
        self.log.push((self.offset, writer.db, words.clone()));
        let key = words.get(1);
        for conn in self.conns.values_mut() {
            let is_hit = |(db, watched): &(u16, Vec<u8>)| *db == writer.db && Some(watched) == key;
            conn.touched |= conn.watched.iter().any(is_hit);
        }
    }
}
