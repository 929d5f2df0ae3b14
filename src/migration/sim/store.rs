//! A store: what was acknowledged is there, answers may come late or never, leases end by the clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::node::server_at;
use super::world::{Peer, World, lock};
use crate::config::Secret;
use crate::store::{
    Answer, Ballot, FleetStore, Leader, Lease, ProxyRecord, Record, Revision, Snapshot, StoreError, Stored,
    Term, Watch,
};
use crate::topology::Topology;

/// No answer within this time, and the call is given up; it may be done all the same.
const PATIENCE: Duration = Duration::from_secs(2);
/// How late a watch may be.
const WATCH_LATE_MS: u64 = 3;

#[derive(Debug, Default)]
struct State {
    /// The topology was written just now, or another state of a task.
    is_exciting: bool,
    snapshot: Snapshot,
    leases: BTreeMap<i64, (Duration, Instant)>,
    registrations: BTreeMap<String, i64>,
    leader_lease: i64,
    /// Every topology that was stored, with its revision.
    history: Vec<(Revision, Arc<Topology>)>,
}

/// What all proxies see.
#[derive(Debug)]
pub(super) struct StoreModel {
    state: Mutex<State>,
    changed: Notify,
    /// Rung then.
    pub(super) stored: Notify,
    /// When that was.
    stored_at: Mutex<Instant>,
    /// By proxy: how many answers are lost.
    forgets: Mutex<BTreeMap<usize, usize>>,
}

impl StoreModel {
    pub(super) fn new(topology: Topology) -> Self {
        let mut state = State::default();
        state.put_topology(Arc::new(topology));
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            stored: Notify::new(),
            stored_at: Mutex::new(Instant::now()),
            forgets: Mutex::default(),
        }
    }

    // === the truth ===

    pub(super) fn topology(&self) -> Arc<Topology> {
        lock(&self.state).snapshot.stored.topology.clone().unwrap()
    }

    /// The number of the server that a node is now.
    pub(super) fn server(&self, node: usize) -> usize {
        server_at(&self.topology().nodes[node].address)
    }

    /// The number of the server that has the shard of a database.
    pub(super) fn owner(&self, db: u16) -> Option<usize> {
        let state = lock(&self.state);
        let topology = state.snapshot.stored.topology.as_ref()?;
        let placement = topology.placements.get(usize::from(db))?;
        Some(server_at(&topology.node(placement.node).address))
    }

    pub(super) fn has_unit(&self) -> bool {
        let state = lock(&self.state);
        let topology = state.snapshot.stored.topology.as_ref();
        topology.is_some_and(|topology| !topology.units.is_empty())
    }

    /// Whether something is about to be frozen, or is.
    pub(super) fn is_any_quiesced(&self) -> bool {
        self.topology().units.iter().any(|unit| unit.quiesced)
    }

    /// How long ago the topology was stored, or another state of a task.
    pub(super) fn stored_ago(&self) -> Duration {
        lock(&self.stored_at).elapsed()
    }

    pub(super) fn leader_slot(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        state.expire();
        slot_of(&state.snapshot.leader.as_ref()?.id)
    }

    pub(super) fn records(&self) -> Vec<Arc<Record>> {
        lock(&self.state).snapshot.records.values().cloned().collect()
    }

    // === faults ===

    pub(super) fn forget(&self, who: usize, calls: usize) {
        lock(&self.forgets).insert(who, calls);
    }

    pub(super) fn remember_all(&self) {
        lock(&self.forgets).clear();
    }

    fn forgets(&self, who: usize) -> bool {
        match lock(&self.forgets).get_mut(&who) {
            Some(calls) if *calls > 0 => {
                *calls -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        state.expire();
        let before = state.snapshot.revision;
        let changed = change(&mut state);
        if std::mem::take(&mut state.is_exciting) {
            *lock(&self.stored_at) = Instant::now();
            self.stored.notify_waiters();
        }
        if state.snapshot.revision != before {
            self.changed.notify_waiters();
        }
        changed
    }
}

/// The proxy whose run has this name: `p1-r3`.
pub(super) fn slot_of(run: &str) -> Option<usize> {
    run.strip_prefix('p')?.split('-').next()?.parse().ok()
}

impl State {
    fn next(&mut self) -> Revision {
        self.snapshot.revision.0 += 1;
        self.snapshot.revision
    }

    fn put_topology(&mut self, topology: Arc<Topology>) -> Revision {
        let revision = self.next();
        self.is_exciting = true;
        self.snapshot.stored = Stored {
            topology: Some(Arc::clone(&topology)),
            revision,
        };
        self.history.push((revision, topology));
        revision
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let ended: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(id, _)| *id)
            .collect();
        ended.into_iter().for_each(|id| self.end_lease(id));
    }

    fn end_lease(&mut self, id: i64) {
        if self.leases.remove(&id).is_none() {
            return;
        }
        self.next();
        let ended: Vec<_> = self
            .registrations
            .extract_if(.., |_, lease| *lease == id)
            .collect();
        for (proxy, _) in ended {
            self.snapshot.proxies.remove(&proxy);
        }
        if self.leader_lease == id {
            self.snapshot.leader = None;
        }
    }

    fn check_term(&self, term: Option<Term>) -> Result<(), StoreError> {
        let Some(term) = term else { return Ok(()) };
        match &self.snapshot.leader {
            Some(leader) if leader.term == term => Ok(()),
            Some(_) | None => Err(StoreError::Deposed { place: place() }),
        }
    }
}

/// What a record says of its task's state, without taking it apart.
pub(super) fn state_in(document: &str) -> &str {
    let rest = document.split_once(r#""state":""#).map_or("", |(_, rest)| rest);
    rest.split_once('"').map_or("", |(state, _)| state)
}

fn place() -> String {
    "the model".to_owned()
}

fn unreachable() -> StoreError {
    StoreError::Unreachable {
        place: place(),
        why: "lost".to_owned(),
    }
}

/// The store as one proxy reaches it.
pub(super) struct Reach {
    world: Arc<World>,
    who: usize,
    rng: Mutex<Rng>,
}

impl std::fmt::Debug for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

impl Reach {
    pub(super) fn new(world: &Arc<World>, who: usize) -> Self {
        Self {
            world: Arc::clone(world),
            who,
            rng: Mutex::new(world.rng("store", who)),
        }
    }

    fn chance<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut lock(&self.rng))
    }

    /// Asks: there, done, and back.
    fn call<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        self.ask(what, true)
    }

    /// `waits`: a member that lags behind answers when it has caught up.
    fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
        waits: bool,
    ) -> Answer<'_, T> {
        Box::pin(async move {
            let (world, who) = (Arc::clone(&self.world), self.who);
            world.step(who).await;
            let delay = world.delay(Some(who), Peer::Store);
            let (there, back) = self.chance(|rng| (delay + world.latency(rng), delay + world.latency(rng)));
            let (lost, done) = (world.store.forgets(who), self.chance(Rng::bool));
            if lost && !done {
                sleep(there + back).await;
                return Err(unreachable());
            }
            if world.walled_until(Some(who), Peer::Store).is_none() {
                sleep(there).await;
                let answer = world.store.change(what);
                world.step(who).await;
                sleep(back).await;
                let told = async {
                    if waits {
                        world.pass(Some(who), Peer::Member, Instant::now()).await;
                    }
                };
                if timeout(PATIENCE, told).await.is_err() {
                    return Err(unreachable());
                }
                if world.walled_until(Some(who), Peer::Store).is_none() {
                    return if lost { Err(unreachable()) } else { answer };
                }
                sleep(PATIENCE).await;
                return Err(unreachable());
            }
            // It arrives when the wall is gone, whoever waits for it.
            let (tell, told) = oneshot::channel();
            let sent = Instant::now();
            let late = Arc::clone(&world);
            world.spawn(async move {
                late.pass(Some(who), Peer::Store, sent + there).await;
                let _ = tell.send(late.store.change(what));
            });
            match timeout(PATIENCE, told).await {
                Ok(Ok(answer)) if !lost => answer,
                Ok(_) | Err(_) => Err(unreachable()),
            }
        })
    }
}

impl FleetStore for Reach {
    fn place(&self) -> String {
        place()
    }

    fn load(&self) -> Answer<'_, Stored> {
        self.call(|state| Ok(state.snapshot.stored.clone()))
    }

    fn save<'a>(
        &'a self,
        topology: &'a Topology,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        if let Err(found) = topology.validate() {
            return Box::pin(async { Err(StoreError::Invalid(found)) });
        }
        // Positions of nodes are the process's own; the document does not have them.
        let text = topology.encode();
        let topology = Arc::new(Topology::decode(text.as_bytes()).unwrap());
        let (world, who) = (Arc::clone(&self.world), self.who);
        self.call(move |state| {
            let stored = state.snapshot.stored.clone();
            let is_over = stored.revision == over;
            if is_over && state.check_term(term).is_ok() {
                if let Some(before) = &stored.topology {
                    world.check_commit(before, &topology);
                }
                world.tell(|| {
                    let units: Vec<_> = topology
                        .units
                        .iter()
                        .map(|unit| (&unit.user, unit.quiesced))
                        .collect();
                    format!(
                        "STORED by p{who}: epoch {} shards {:?} units {units:?}",
                        topology.epoch,
                        topology
                            .placements
                            .iter()
                            .map(|placed| placed.node.0)
                            .collect::<Vec<_>>()
                    )
                });
                return Ok(state.put_topology(topology));
            }
            if stored.topology.as_ref() == Some(&topology) {
                return Ok(stored.revision);
            }
            if !is_over {
                return Err(StoreError::Changed { place: place() });
            }
            state.check_term(term)?;
            Ok(over)
        })
    }

    fn was_saved<'a>(&'a self, topology: &'a Topology, since: Revision) -> Answer<'a, Option<bool>> {
        let text = topology.encode();
        self.call(move |state| {
            let mut later = state.history.iter().filter(|(revision, _)| *revision > since);
            Ok(Some(later.any(|(_, stored)| stored.encode() == text)))
        })
    }

    fn secret(&self) -> Answer<'_, Secret> {
        Box::pin(async { Ok(Secret::new("secret".to_owned())) })
    }

    fn watch(&self) -> Box<dyn Watch> {
        Box::new(News {
            world: Arc::clone(&self.world),
            who: self.who,
            rng: self.world.rng("watch", self.who),
            seen: None,
        })
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        self.call(move |state| {
            let id = state.next().0;
            state.leases.insert(id, (ttl, Instant::now() + ttl));
            Ok(Lease { id, ttl })
        })
    }

    fn keep_alive(&self, lease: Lease) -> Answer<'_, bool> {
        let beat = move |state: &mut State| {
            let Some((ttl, until)) = state.leases.get_mut(&lease.id) else {
                return Ok(false);
            };
            *until = Instant::now() + *ttl;
            Ok(true)
        };
        self.ask(beat, false)
    }

    fn revoke(&self, lease: Lease) -> Answer<'_, ()> {
        self.call(move |state| {
            state.end_lease(lease.id);
            Ok(())
        })
    }

    fn register<'a>(&'a self, lease: Lease, record: &'a ProxyRecord) -> Answer<'a, Revision> {
        let record = record.clone();
        self.call(move |state| {
            if !state.leases.contains_key(&lease.id) {
                return Err(StoreError::LeaseEnded { place: place() });
            }
            state.registrations.insert(record.id.clone(), lease.id);
            state.snapshot.proxies.insert(record.id.clone(), record);
            Ok(state.next())
        })
    }

    fn campaign<'a>(&'a self, lease: Lease, id: &'a str) -> Answer<'a, Ballot> {
        let (id, world) = (id.to_owned(), Arc::clone(&self.world));
        self.call(move |state| {
            if !state.leases.contains_key(&lease.id) {
                return Err(StoreError::LeaseEnded { place: place() });
            }
            if let Some(leader) = &state.snapshot.leader {
                // An earlier attempt of this very call.
                let is_ours = state.leader_lease == lease.id;
                return Ok(if is_ours {
                    Ballot::Won(leader.term, Revision(leader.term.0))
                } else {
                    Ballot::Lost
                });
            }
            let revision = state.next();
            let term = Term(revision.0);
            world.tell(|| format!("LEADS {id} term {term}"));
            state.snapshot.leader = Some(Leader { id, term });
            state.leader_lease = lease.id;
            Ok(Ballot::Won(term, revision))
        })
    }

    fn records(&self) -> Answer<'_, Vec<Record>> {
        self.call(|state| {
            let records = state.snapshot.records.values();
            Ok(records.map(|record| Record::clone(record)).collect())
        })
    }

    fn record<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Record>> {
        let id = id.to_owned();
        self.call(move |state| {
            Ok(state
                .snapshot
                .records
                .get(&id)
                .map(|record| Record::clone(record)))
        })
    }

    fn put_record<'a>(
        &'a self,
        id: &'a str,
        document: &'a str,
        over: Revision,
        term: Option<Term>,
    ) -> Answer<'a, Revision> {
        let (id, document) = (id.to_owned(), document.to_owned());
        self.call(move |state| {
            let stands = state.snapshot.records.get(&id).cloned();
            let is_over = stands.as_ref().map_or(Revision::NONE, |record| record.revision) == over;
            if is_over && state.check_term(term).is_ok() {
                let revision = state.next();
                let before = stands.as_ref().map(|record| state_in(&record.document));
                state.is_exciting |= before != Some(state_in(&document));
                let record = Record {
                    id: id.clone(),
                    document,
                    revision,
                };
                state.snapshot.records.insert(id, Arc::new(record));
                return Ok(revision);
            }
            match stands {
                Some(record) if record.document == document => return Ok(record.revision),
                Some(_) | None if !is_over => return Err(StoreError::Changed { place: place() }),
                Some(_) | None => {}
            }
            state.check_term(term)?;
            Ok(over)
        })
    }

    fn delete_record<'a>(&'a self, id: &'a str, over: Revision, term: Option<Term>) -> Answer<'a, ()> {
        let id = id.to_owned();
        self.call(move |state| {
            let Some(record) = state.snapshot.records.get(&id) else {
                return Ok(());
            };
            if record.revision != over {
                return Err(StoreError::Changed { place: place() });
            }
            state.check_term(term)?;
            state.snapshot.records.remove(&id);
            state.next();
            Ok(())
        })
    }
}

/// A watch: late by chance, deaf behind a wall.
struct News {
    world: Arc<World>,
    who: usize,
    rng: Rng,
    seen: Option<Revision>,
}

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("News").finish_non_exhaustive()
    }
}

impl Watch for News {
    fn next(&mut self) -> Answer<'_, Arc<Snapshot>> {
        Box::pin(async move {
            let world = Arc::clone(&self.world);
            loop {
                let changed = world.store.changed.notified();
                let (is_news, next_end) = {
                    let mut state = lock(&world.store.state);
                    state.expire();
                    let is_news = self.seen != Some(state.snapshot.revision);
                    (is_news, state.leases.values().map(|(_, until)| *until).min())
                };
                if is_news {
                    break;
                }
                let end = next_end.map_or(Duration::from_secs(5), |end| end - Instant::now());
                let _ = timeout(end, changed).await;
            }
            let late = Duration::from_millis(self.rng.u64(0..=WATCH_LATE_MS));
            for peer in [Peer::Watch, Peer::Member, Peer::Store] {
                world.pass(Some(self.who), peer, Instant::now() + late).await;
            }
            let snapshot = lock(&world.store.state).snapshot.clone();
            self.seen = Some(snapshot.revision);
            Ok(Arc::new(snapshot))
        })
    }

    fn resyncs(&self) -> u64 {
        0
    }
}
