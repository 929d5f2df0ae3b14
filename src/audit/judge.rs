//! One request: would it run on database 0, and in a pinned database? Decided by the table and the routes of the proxy.

use crate::command::{self, Class, FanOut, Local, Refusal, Script, Spec, Transaction};
use crate::ids::ShardId;
use crate::resp::Args;
use crate::route::{self, Place, Plan, Scratch};
use crate::topology::Topology;

/// Bytes of a key that are kept as an example.
const KEY_BYTES_MAX: usize = 48;
/// Any pinned database: they are all alike.
const SOME_PINNED: u16 = 1;

/// Why a request would not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hindrance {
    /// Its keys live on different shards.
    KeysApart,
    /// It is a script, or the like, that names no key.
    NoKeys,
    /// It reaches keys that it does not name.
    AnyKeys,
    /// The transaction that it is in, or ends, has keys of several shards.
    Transaction,
    /// The keys of one transaction that are watched live on different shards.
    Watch,
    /// It cannot stand in a transaction.
    Queued,
    /// Its code says that it leaves its database.
    Code,
    /// It selects a database that there is not.
    Database,
    /// No such command.
    Unknown,
    /// It is refused.
    Refused,
}

/// Why, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) hindrance: Hindrance,
    /// The table's reason of a command that is refused.
    pub(super) reason: &'static str,
    pub(super) example: Option<Example>,
}

/// What can be shown of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Example {
    /// Two keys, cut, with their shards.
    Keys([(Vec<u8>, ShardId); 2]),
    /// A command's name.
    Name(Vec<u8>),
    /// A database's number.
    Database(u64),
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Runs,
    /// Redis itself answers with an error.
    Wrong,
    Fails(Finding),
}

/// A request, judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// None: an unknown command.
    pub(super) spec: Option<&'static Spec>,
    /// What preshard would answer by itself.
    pub(super) local: Option<Local>,
    pub(super) sharded: Outcome,
    pub(super) pinned: Outcome,
}

/// What a client has selected, queued and watched, as far as its requests tell.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) db: u16,
    queue: Option<Queue>,
    watching: Option<ShardId>,
}

/// A transaction that has begun.
#[derive(Debug, Default)]
struct Queue {
    /// Where it runs on database 0, and the key that said so.
    place: Option<(ShardId, Vec<u8>)>,
    sharded: Option<Finding>,
    pinned: Option<Finding>,
}

#[derive(Debug)]
pub(super) struct Judge {
    topology: Topology,
    scratch: Scratch,
    keys: Vec<u32>,
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(topology: Topology) -> Self {
        Self {
            topology,
            scratch: Scratch::default(),
            keys: Vec::new(),
        }
    }

    /// What would become of a request, and of the client's state.
    pub(super) fn judge(&mut self, state: &mut State, args: &Args<'_>) -> Judged {
        let spec = match command::resolve(args) {
            Ok(spec) => spec,
            Err(refusal) => return refused(state, args, &refusal),
        };
        let ends = matches!(spec.class, Class::Local(Local::Quit | Local::Reset));
        let (sharded, pinned) = match spec.class {
            Class::Transaction(transaction) => self.transaction(state, spec, transaction, args),
            _ if state.queue.is_some() && !ends => self.queued(state, spec, args),
            _ => {
                let sharded = self.alone(spec, args, 0);
                (sharded, self.alone(spec, args, SOME_PINNED))
            }
        };
        let local = match spec.class {
            Class::Local(local) => Some(local),
            _ => None,
        };
        if local == Some(Local::Select) && state.queue.is_none() {
            // The server behind may have more databases than preshard would; what follows was meant for that one.
            let db = database(args).and_then(|db| u16::try_from(db).ok());
            state.db = db.unwrap_or(state.db);
        } else if ends {
            *state = State::default();
        }
        Judged {
            spec: Some(spec),
            local,
            sharded,
            pinned,
        }
    }

    /// A request outside of transactions.
    fn alone(&mut self, spec: &'static Spec, args: &Args<'_>, db: u16) -> Outcome {
        match route::route(spec, args, &self.topology, db, &mut self.scratch) {
            Ok(Plan::Script(Script::Eval, _)) => judge_code(args.get(1)),
            Ok(Plan::Script(Script::Evalsha, _)) if db == 0 && has_no_keys(args) => {
                Outcome::Fails(finding(Hindrance::NoKeys))
            }
            Ok(Plan::FanOut(FanOut::ScriptLoad)) => judge_code(args.get(2)),
            Ok(Plan::FanOut(FanOut::EveryNode)) if spec.name == "function|load" => {
                judge_code(args.get(args.len() - 1))
            }
            Ok(Plan::Local(Local::Select)) => self.select(args),
            Ok(_) => Outcome::Runs,
            Err(line) => self.why(spec, args, &line),
        }
    }

    fn select(&self, args: &Args<'_>) -> Outcome {
        match database(args) {
            None => Outcome::Wrong,
            Some(db) if db <= u64::from(self.topology.pinned) => Outcome::Runs,
            Some(db) => Outcome::Fails(Finding {
                example: Some(Example::Database(db)),
                ..finding(Hindrance::Database)
            }),
        }
    }

    /// What an error line of the router means.
    fn why(&mut self, spec: &'static Spec, args: &Args<'_>, line: &str) -> Outcome {
        if !line.starts_with("CROSSSLOT") {
            return Outcome::Wrong;
        }
        if command::reaches_undeclared_keys(spec, args) {
            return Outcome::Fails(finding(Hindrance::AnyKeys));
        }
        Outcome::Fails(match self.two_apart(spec, args) {
            Some(keys) => Finding {
                example: Some(Example::Keys(keys)),
                ..finding(Hindrance::KeysApart)
            },
            None => finding(Hindrance::NoKeys),
        })
    }

    /// The first key, and the first one on another shard.
    fn two_apart(&mut self, spec: &Spec, args: &Args<'_>) -> Option<[(Vec<u8>, ShardId); 2]> {
        command::routing_keys(spec, args, &mut self.keys).ok()?;
        let place = |&key: &u32| {
            let key = args.get(key as usize);
            (key, self.topology.shard_of_key(key))
        };
        let mut places = self.keys.iter().map(place);
        let first = places.next()?;
        let other = places.find(|(_, shard)| *shard != first.1)?;
        Some([(cut(first.0), first.1), (cut(other.0), other.1)])
    }

    /// A request between `MULTI` and `EXEC`.
    fn queued(&mut self, state: &mut State, spec: &'static Spec, args: &Args<'_>) -> (Outcome, Outcome) {
        let sharded = self.place(spec, args, 0);
        let pinned = self.place(spec, args, SOME_PINNED);
        let Some(queue) = &mut state.queue else {
            return (Outcome::Runs, Outcome::Runs);
        };
        let sharded = match sharded {
            Ok(Some(shard)) => {
                let key = self.keys.first().map(|&key| cut(args.get(key as usize)));
                let (first, first_key) = queue
                    .place
                    .get_or_insert_with(|| (shard, key.clone().unwrap_or_default()));
                if *first == shard {
                    Outcome::Runs
                } else {
                    let keys = [(first_key.clone(), *first), (key.unwrap_or_default(), shard)];
                    Outcome::Fails(Finding {
                        example: Some(Example::Keys(keys)),
                        ..finding(Hindrance::Transaction)
                    })
                }
            }
            Ok(None) => Outcome::Runs,
            Err(outcome) => outcome,
        };
        let pinned = pinned.err().unwrap_or(Outcome::Runs);
        for (outcome, noted) in [(&sharded, &mut queue.sharded), (&pinned, &mut queue.pinned)] {
            if let Outcome::Fails(finding) = outcome
                && noted.is_none()
            {
                *noted = Some(finding.clone());
            }
        }
        (sharded, pinned)
    }

    /// The shard where a queued command would run, none if any node will do; its keys are in `self.keys` then.
    fn place(&mut self, spec: &'static Spec, args: &Args<'_>, db: u16) -> Result<Option<ShardId>, Outcome> {
        match route::place_in_transaction(spec, args, &self.topology, db, &mut self.scratch) {
            Ok(Place::Anywhere) => Ok(None),
            Ok(Place::Script(Script::Eval, _)) if judge_code(args.get(1)) != Outcome::Runs => {
                Err(judge_code(args.get(1)))
            }
            Ok(Place::Script(Script::Evalsha, _)) if db == 0 && has_no_keys(args) => {
                Err(Outcome::Fails(finding(Hindrance::NoKeys)))
            }
            Ok(Place::Shard(shard) | Place::Script(_, shard)) => {
                let found = command::routing_keys(spec, args, &mut self.keys);
                found.map(|()| Some(shard)).map_err(|_| Outcome::Wrong)
            }
            Err(line) => Err(match spec.class {
                Class::Split(_) => Outcome::Fails(Finding {
                    example: self.two_apart(spec, args).map(Example::Keys),
                    ..finding(Hindrance::Transaction)
                }),
                Class::FanOut(_) | Class::Local(_) | Class::PubSub(_) | Class::Helper(_) => {
                    Outcome::Fails(finding(Hindrance::Queued))
                }
                _ => self.why(spec, args, &line),
            }),
        }
    }

    fn transaction(
        &mut self,
        state: &mut State,
        spec: &'static Spec,
        transaction: Transaction,
        args: &Args<'_>,
    ) -> (Outcome, Outcome) {
        match transaction {
            Transaction::Multi if state.queue.is_some() => return (Outcome::Wrong, Outcome::Wrong),
            Transaction::Multi => {
                state.queue = Some(Queue {
                    place: state.watching.map(|shard| (shard, b"(watched)".to_vec())),
                    ..Queue::default()
                });
            }
            Transaction::Exec => {
                state.watching = None;
                let Some(queue) = state.queue.take() else {
                    return (Outcome::Wrong, Outcome::Wrong);
                };
                let outcome = |noted: Option<Finding>| noted.map_or(Outcome::Runs, Outcome::Fails);
                return (outcome(queue.sharded), outcome(queue.pinned));
            }
            Transaction::Discard => {
                state.queue = None;
                state.watching = None;
            }
            Transaction::Unwatch if state.queue.is_none() => state.watching = None,
            Transaction::Unwatch => {}
            Transaction::Watch if state.queue.is_some() => return (Outcome::Wrong, Outcome::Wrong),
            Transaction::Watch => return (self.watch(state, spec, args), Outcome::Runs),
        }
        (Outcome::Runs, Outcome::Runs)
    }

    fn watch(&mut self, state: &mut State, spec: &'static Spec, args: &Args<'_>) -> Outcome {
        match route::shard_of_keys(spec, args, &self.topology, 0, &mut self.scratch) {
            Ok(shard) => {
                let first = *state.watching.get_or_insert(shard);
                if first == shard {
                    return Outcome::Runs;
                }
                Outcome::Fails(finding(Hindrance::Watch))
            }
            Err(line) => match self.why(spec, args, &line) {
                Outcome::Fails(found) => Outcome::Fails(Finding {
                    hindrance: Hindrance::Watch,
                    ..found
                }),
                other => other,
            },
        }
    }
}

/// A request that the table alone decides.
fn refused(state: &mut State, args: &Args<'_>, refusal: &Refusal) -> Judged {
    let outcome = match refusal {
        Refusal::UnknownSubcommand { .. } if is_tried(args) => Outcome::Wrong,
        Refusal::Unknown { .. } | Refusal::UnknownSubcommand { .. } => {
            let mut name = cut(args.get(0)).to_ascii_uppercase();
            if matches!(refusal, Refusal::UnknownSubcommand { .. }) {
                name.push(b' ');
                name.extend(cut(args.get(1)).to_ascii_uppercase());
            }
            Outcome::Fails(Finding {
                example: Some(Example::Name(name)),
                ..finding(Hindrance::Unknown)
            })
        }
        Refusal::Refused { reason, .. } => Outcome::Fails(Finding {
            reason,
            ..finding(Hindrance::Refused)
        }),
        Refusal::Arity { .. } | Refusal::Argument(_) => Outcome::Wrong,
    };
    if let (Some(queue), Outcome::Fails(finding)) = (&mut state.queue, &outcome) {
        queue.sharded.get_or_insert_with(|| finding.clone());
        queue.pinned.get_or_insert_with(|| finding.clone());
    }
    Judged {
        // Of a subcommand that nobody knows, the container.
        spec: command::identify(args)
            .ok()
            .or_else(|| command::lookup(args.get(0))),
        local: None,
        sharded: outcome.clone(),
        pinned: outcome,
    }
}

/// What libraries try on every server and do without: servers that are not sold as a service refuse it too.
fn is_tried(args: &Args<'_>) -> bool {
    args.get(0).eq_ignore_ascii_case(b"CLIENT") && args.get(1).eq_ignore_ascii_case(b"MAINT_NOTIFICATIONS")
}

/// A script that is called by its sum and without keys: what its text can reach is not known here, and most of them reach keys.
fn has_no_keys(args: &Args<'_>) -> bool {
    args.get(2) == b"0"
}

fn judge_code(code: &[u8]) -> Outcome {
    match command::judge_code(code) {
        Ok(()) => Outcome::Runs,
        Err(_) => Outcome::Fails(finding(Hindrance::Code)),
    }
}

const fn finding(hindrance: Hindrance) -> Finding {
    Finding {
        hindrance,
        reason: "",
        example: None,
    }
}

/// The number of `SELECT`.
fn database(args: &Args<'_>) -> Option<u64> {
    std::str::from_utf8(args.get(1)).ok()?.parse().ok()
}

fn cut(key: &[u8]) -> Vec<u8> {
    key[..key.len().min(KEY_BYTES_MAX)].to_vec()
}
