//! A node: databases, users and what they may do, transactions, and the history of its writes. No clock, no expiry.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::data::{self, Data, Db, name_of};
use super::faults::{Memory, Users};
use super::users::Accounts;
use super::world::{World, lock};
use crate::command::APPLIER_PREFIX;
use crate::config::Secret;
use crate::resp::Value;
use crate::topology::Address;

pub(super) type Words = Vec<Vec<u8>>;

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
    /// What it calls itself.
    name: String,
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
    accounts: Accounts,
    conns: BTreeMap<u64, Conn>,
    next_conn: u64,
    /// Every write of this run: where its history is behind it, in which database, what.
    log: Vec<(u64, u16, Words)>,
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
    /// `open`: it knows no users.
    pub(super) fn new(index: usize, open: bool) -> Arc<Self> {
        Arc::new(Self {
            index,
            name: format!("n{index}"),
            address: format!("127.0.0.1:{}", 7001 + index).parse().unwrap(),
            state: Mutex::new(State {
                run: 1,
                offset: 1,
                dbs: BTreeMap::new(),
                accounts: Accounts::new(open),
                conns: BTreeMap::new(),
                next_conn: 1,
                log: Vec::new(),
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

    pub(super) fn is_open(&self) -> bool {
        lock(&self.state).accounts.is_open()
    }

    pub(super) fn make_user(&self, user: &str, password: &Secret) {
        lock(&self.state).accounts.make(user, password);
    }

    pub(super) fn save_users(&self) {
        lock(&self.state).accounts.save();
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
        lock(&self.state).accounts.may_write(is)
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

    pub(super) fn restart(&self, world: &World, (users, memory): (Users, Memory), down: Duration) {
        let mut state = lock(&self.state);
        std::mem::take(&mut state.conns)
            .into_values()
            .for_each(|conn| conn.killed.kill());
        state.run += 1;
        state.offset = 1;
        state.log.clear();
        state.down_until = Instant::now() + down;
        state.accounts.restart(users);
        // What clients are served is nobody's fault here if it is gone, and where users are not ours the mark is the fence.
        let is_needed = |db: &u16| world.store.owner(*db) == Some(self.index);
        let forgets = memory == Memory::Lost
            && !state.accounts.is_open()
            && !state.dbs.keys().any(is_needed)
            && !world.store.is_any_quiesced();
        if forgets {
            state.dbs.clear();
        }
        self.wrote.notify_waiters();
        world.tell(|| format!("{} restarted as run {}, forgets: {forgets}", self.name, state.run));
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
        let refusal = state.accounts.refusal(&conn.user, &name);
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
            (_, queued) if refusal.is_some() => {
                conn.spoilt = queued.is_some();
                Value::error(refusal.unwrap_or_default())
            }
            (_, Some(queued)) => {
                if name == "INFO" && words.get(1).is_some_and(|section| section == b"replication") {
                    let at = &self.name;
                    world.judge.wrong(world, || {
                        format!("{at} was asked within a transaction where its history is")
                    });
                }
                queued.push(words.clone());
                Value::Simple("QUEUED".into())
            }
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
        let replies = queued.iter().map(
            |words| match state.accounts.refusal(&conn.user, &name_of(words)) {
                Some(why) => Value::error(why),
                None => self.run(world, state, conn, words),
            },
        );
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
            "CLIENT" => return state.client(conn, words),
            _ => {}
        }
        let role = conn.role();
        let is_write = !matches!(name.as_str(), "GET" | "DBSIZE" | "HGET" | "HMGET" | "HKEYS");
        let before = state.dbs.get(&conn.db).is_none_or(Db::is_empty);
        let reply = data::run(state.dbs.entry(conn.db).or_default(), words);
        if is_write {
            state.log_write(conn, words);
            self.wrote.notify_waiters();
        }
        let owner = world.store.owner(conn.db);
        let owns = owner == Some(self.index);
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
            Role::Client if owner.is_some() && !owns => world.judge.wrong(world, || {
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

impl Conn {
    /// Who writes a copy is called so, as a user or, where there are none, by the connection's name.
    fn role(&self) -> Role {
        let is_applier = |name: &str| name.starts_with(APPLIER_PREFIX);
        match self.user.as_str() {
            user if is_applier(user) || is_applier(&self.name) => Role::Applier,
            user if user.starts_with("admin-") => Role::Administrator,
            _ => Role::Client,
        }
    }
}

// === impl State ===

impl State {
    fn auth(&self, conn: &mut Conn, words: &Words) -> Value {
        let [_, user, password] = &words[..] else {
            return Value::error("WRONGPASS invalid username-password pair");
        };
        let user = String::from_utf8_lossy(user).into_owned();
        if !self.accounts.knows(&user, password) {
            return Value::error("WRONGPASS invalid username-password pair or user is disabled.");
        }
        if let Some(who) = user.strip_prefix("admin-") {
            conn.who = who.parse().ok();
        }
        conn.user = user;
        Value::OK
    }

    fn acl(&mut self, world: &World, node: &str, words: &Words) -> Value {
        let (reply, gone) = self.accounts.change(world, node, words);
        let theirs = self.conns.extract_if(.., |_, conn| gone.contains(&conn.user));
        theirs.for_each(|(_, conn)| conn.killed.kill());
        // Somebody has its users written to the disk now and then.
        if self.offset.is_multiple_of(3) {
            self.accounts.save();
        }
        reply
    }

    fn client(&mut self, conn: &mut Conn, words: &Words) -> Value {
        let text = |at: usize| {
            words
                .get(at)
                .map(|word| String::from_utf8_lossy(word).into_owned())
        };
        match text(1).unwrap_or_default().as_str() {
            "SETNAME" => {
                conn.name = text(2).unwrap_or_default();
                Value::OK
            }
            "LIST" => {
                let lines = self.conns.iter();
                let lines: Vec<_> = lines
                    .map(|(id, conn)| format!("id={id} name={} age=1\n", conn.name))
                    .collect();
                Value::bulk(lines.concat())
            }
            "KILL" => {
                let killed = text(3).and_then(|id| self.conns.remove(&id.parse().ok()?));
                killed.map_or(Value::Int(0), |conn| {
                    conn.killed.kill();
                    Value::Int(1)
                })
            }
            _ => Value::Int(1),
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
