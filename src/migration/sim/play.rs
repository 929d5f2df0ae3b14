//! One run: nodes, proxies and clients are set up, an operator orders moves, faults happen, all is well again, and then everything
//! must be as clients were told.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client;
use super::faults::{Slip, Whom};
use super::node::server_at;
use super::process::Process;
use super::setup::build;
use super::store::state_in;
use super::wire::{dial, some};
use super::world::{World, lock};
use crate::config::CopyMethod;
use crate::control::Mistake;
use crate::control::testing::{set_mistake, set_network};
use crate::ids::ShardId;
use crate::migration::{Fence, Move, MoveOrder, Mover, State, Wish};
use crate::store::Record;
use crate::topology::Topology;
use crate::topology::codec::shard_list;

pub(super) const PROXIES: usize = 3;
pub(super) const CLIENTS: usize = 5;
pub(super) const SHARDS: u16 = 4;
/// Faults end after so long.
const TROUBLE: Duration = Duration::from_secs(40);
/// When all is well again, every client is served within this time …
const RESUME: Duration = Duration::from_secs(20);
/// … and all tasks are over within this time.
const SETTLE: Duration = Duration::from_secs(400);

/// What a run has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) moved: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) answered: u64,
    pub(super) in_doubt: u64,
    pub(super) not_run: u64,
    pub(super) attempts: u64,
    pub(super) rolled_back: u64,
    /// Moves that could be taken back in the end.
    pub(super) reversible: u64,
    /// Moves from or to nodes without users.
    pub(super) cooperative: u64,
    /// What the clocks of all runs have shown, together.
    pub(super) seconds: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: Self) {
        self.moved += other.moved;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.answered += other.answered;
        self.in_doubt += other.in_doubt;
        self.not_run += other.not_run;
        self.attempts += other.attempts;
        self.rolled_back += other.rolled_back;
        self.reversible += other.reversible;
        self.cooperative += other.cooperative;
        self.seconds += other.seconds;
    }
}

/// A run that went wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) story: String,
}

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug)]
pub(super) enum Planted {
    Nothing,
    Mistake(Mistake),
    Slip(Slip),
}

impl Planted {
    /// Whether only moves between nodes without users show it.
    pub(super) const fn is_cooperative(self) -> bool {
        matches!(
            self,
            Self::Mistake(Mistake::LeavesStrangers) | Self::Slip(Slip::HoldsNot | Slip::Unheard)
        )
    }

    /// One run in so many has a node without shards, and one move in so many a node that another server takes the place of. With
    /// mistakes that this does not show there are none: seeds that find them are known without.
    pub(super) const fn replaces_in(self) -> Option<u8> {
        match self {
            Self::Nothing => Some(4),
            Self::Mistake(Mistake::IgnoresHolder) => Some(1),
            Self::Mistake(_) | Self::Slip(_) => None,
        }
    }
}

/// A seed without faults, in which nobody may get an error.
pub(super) const fn is_calm(seed: u64) -> bool {
    seed.is_multiple_of(4)
}

pub(super) fn play(seed: u64, planted: Planted) -> Result<Seen, Wrong> {
    fastrand::seed(seed);
    let mistake = match planted {
        Planted::Mistake(mistake) => Some(mistake),
        Planted::Nothing | Planted::Slip(_) => None,
    };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    set_mistake(mistake);
    set_network(Some(Box::new(dial)));
    let result = runtime.block_on(run(seed, planted));
    set_network(None);
    set_mistake(None);
    World::set_current(None);
    result
}

async fn run(seed: u64, planted: Planted) -> Result<Seen, Wrong> {
    let mut rng = Rng::with_seed(seed);
    let world = build(seed, planted, &mut rng);
    World::set_current(Some(Arc::clone(&world)));
    let crew = Arc::new(Crew::default());
    for who in 0..PROXIES {
        lock(&crew.processes).push(Some(Process::start(&world, who, 0)));
    }
    world.spawn(Arc::clone(&crew).raise_the_dead(Arc::clone(&world)));
    for client in 0..CLIENTS {
        world.spawn(client::live(Arc::clone(&world), client % PROXIES, client, SHARDS));
    }
    let timed = world.timed_faults();
    let struck = Arc::clone(&world);
    world.spawn(async move {
        for (at, fault, whom) in timed {
            sleep_until(struck.begun + at).await;
            let who = match whom {
                Whom::Leader => struck.store.leader_slot(),
                Whom::Proxy(who) => Some(who),
            };
            if let Some(who) = who.filter(|_| !struck.healed.load(Relaxed)) {
                struck.suffer(fault, who);
            }
        }
    });
    let outcome = Box::pin(story(&world, &crew, &mut rng, planted)).await;
    if std::env::var_os("PRESHARD_SIM_STORY").is_some() {
        println!("seed {seed}:\n{}", world.story());
    }
    let seen = outcome.map_err(|what| Wrong {
        what,
        story: world.story(),
    });
    let processes = std::mem::take(&mut *lock(&crew.processes));
    for process in processes.into_iter().flatten() {
        process.kill(&world).await;
    }
    world.shut_down().await;
    seen
}

async fn story(world: &Arc<World>, crew: &Crew, rng: &mut Rng, planted: Planted) -> Result<Seen, String> {
    let verdict = || world.judge.verdict().map_or(Ok(()), Err);
    // Until the first leader has looked around.
    sleep(Duration::from_millis(500)).await;
    let operated = timeout(TROUBLE, async {
        operate(world, crew, rng, planted.replaces_in()).await?;
        world.until_quiet().await;
        Ok::<_, String>(())
    });
    let operated = operated.await;
    verdict()?;
    match operated {
        Ok(Err(why)) if is_calm(world.seed) => return Err(why),
        Err(_) if is_calm(world.seed) => {
            return Err("nothing was wrong, and the moves have not ended".to_owned());
        }
        Ok(_) | Err(_) => {}
    }
    world.heal();
    all_served(world, crew, "since all is well").await?;
    all_settled(world, crew).await?;
    if rng.u8(0..4) == 0 {
        // It was possible, as the records say, or is said to be impossible now.
        for (id, _) in tasks(world).iter().filter(|(_, task)| task.is_reversible()) {
            let told = crew.wish(id, Wish::Rollback).await;
            world.tell(|| format!("back with {id}: {told:?}"));
        }
        all_settled(world, crew).await?;
    }
    all_served(world, crew, "in the end").await?;
    world.over.store(true, Relaxed);
    if !until(RESUME, || world.gone.load(Relaxed) == CLIENTS).await {
        return Err(format!("a client waits for an answer\n{}", crew.tell(world)));
    }
    for shard in 0..SHARDS {
        let owner = world.store.owner(shard).unwrap_or_default();
        world.judge.check(world, shard, &world.nodes[owner].db(shard));
    }
    verdict()?;
    all_followed(world, crew).await?;
    let seen = sum_up(world);
    if is_calm(world.seed) && (seen.in_doubt > 0 || seen.not_run > 0 || seen.failed > 0) {
        return Err(format!("nothing was wrong, and yet: {seen:?}"));
    }
    Ok(seen)
}

/// From now on every client is served in time.
async fn all_served(world: &World, crew: &Crew, when: &str) -> Result<(), String> {
    let since = Instant::now();
    world.hurry(true);
    let served = until(RESUME, || {
        world.judge.unserved(since).is_empty() || world.judge.verdict().is_some()
    })
    .await;
    world.hurry(false);
    world.judge.verdict().map_or(Ok(()), Err)?;
    if served {
        return Ok(());
    }
    let unserved = world.judge.unserved(since);
    Err(format!("not served {when}: {unserved:?}\n{}", crew.tell(world)))
}

async fn all_settled(world: &World, crew: &Crew) -> Result<(), String> {
    let settled = timeout(SETTLE, settle(world, crew)).await;
    world.judge.verdict().map_or(Ok(()), Err)?;
    settled.map_err(|_| format!("not settled\n{}", crew.tell(world)))
}

/// Where a source is said to follow, it has what the target has: nothing would be lost on the way back.
async fn all_followed(world: &World, crew: &Crew) -> Result<(), String> {
    let lags = || {
        let tasks = tasks(world).into_iter();
        let mut reversible = tasks.filter(|(_, task)| task.is_reversible());
        reversible.any(|(_, task)| {
            let topology = world.store.topology();
            let node = |name: &str| {
                let node = topology.node_named(name).unwrap();
                &world.nodes[server_at(&topology.node(node).address)]
            };
            let shards = shard_list(&task.shards, SHARDS).unwrap();
            let mut dbs = shards.into_iter().map(|shard| shard.0);
            dbs.any(|db| node(&task.source).db(db) != node(&task.target).db(db))
        })
    };
    if until(RESUME, || !lags()).await {
        return Ok(());
    }
    Err(format!(
        "a source that follows has something else\n{}",
        crew.tell(world)
    ))
}

fn tasks(world: &World) -> Vec<(String, Move)> {
    let records = world.store.records().into_iter();
    records
        .filter_map(|record| Some((record.id.clone(), Move::decode(&record.document)?)))
        .collect()
}

fn sum_up(world: &World) -> Seen {
    let mut seen = Seen {
        answered: world.judge.answered.load(Relaxed),
        in_doubt: world.judge.in_doubt.load(Relaxed),
        not_run: world.judge.not_run.load(Relaxed),
        seconds: world.begun.elapsed().as_secs(),
        ..Seen::default()
    };
    for (_, task) in tasks(world) {
        seen.attempts += u64::from(task.attempts);
        seen.reversible += u64::from(task.is_reversible());
        let is_moved = matches!(task.state, State::Moved | State::Finalized);
        seen.cooperative += u64::from(is_moved && task.fence == Fence::Cooperative);
        match task.state {
            _ if is_moved => seen.moved += 1,
            State::RolledBack => seen.rolled_back += 1,
            State::Cancelled => seen.cancelled += 1,
            _ => seen.failed += 1,
        }
    }
    seen
}

async fn until(longest: Duration, mut is: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + longest;
    while !is() {
        if Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(50)).await;
    }
    true
}

/// A move, as it is ordered: of these shards, or of others. From which node, and to which.
fn draw_order(
    world: &World,
    topology: &Topology,
    rng: &mut Rng,
    shards: &mut Vec<u16>,
) -> Option<(MoveOrder, [usize; 2])> {
    // The same shards go on, or back, as often as others.
    if shards.is_empty() || rng.bool() {
        let from = rng.usize(0..topology.nodes.len());
        let of_node = (0..SHARDS).filter(|&shard| home(topology, shard) == from);
        *shards = of_node.filter(|_| rng.u8(0..3) > 0).collect();
    }
    let source = home(topology, *shards.first()?);
    let others = (0..topology.nodes.len()).filter(|&node| node != source);
    let others: Vec<usize> = others.collect();
    let target = others[rng.usize(0..others.len())];
    let manual = rng.u8(0..5) == 0;
    let order = MoveOrder {
        shards: shards.iter().map(|&shard| ShardId(shard)).collect(),
        target: topology.nodes[target].name.clone(),
        manual,
        verify: None,
        copy: CopyMethod::Snapshot,
        rate: None,
        max_pause_ms: if !is_calm(world.seed) && rng.u8(0..4) == 0 {
            rng.u64(1..100)
        } else {
            500
        },
    };
    Some((order, [source, target]))
}

/// Orders moves, one after the other or at once, takes them back, and changes its mind now and then. What must not be refused if
/// nothing is wrong, is an error.
async fn operate(
    world: &Arc<World>,
    crew: &Crew,
    rng: &mut Rng,
    replaces_in: Option<u8>,
) -> Result<(), String> {
    let mut shards: Vec<u16> = Vec::new();
    for _ in 0..rng.usize(1..=3) {
        if world.judge.verdict().is_some() {
            return Ok(());
        }
        let topology = world.store.topology();
        let Some((order, nodes)) = draw_order(world, &topology, rng, &mut shards) else {
            continue;
        };
        let manual = order.manual;
        world.ordered.store(true, Relaxed);
        let Some(id) = crew.order(world, &order).await else {
            continue;
        };
        let is_replaced = replaces_in.is_some_and(|seldom| world.rng("replaced", 0).u8(0..seldom) == 0);
        if is_replaced {
            crew.replace_one(world, &topology, nodes).await;
        }
        if manual {
            sleep(some(rng, 2_000)).await;
            let _ = crew.wish(&id, Wish::Cutover).await;
        }
        if rng.u8(0..6) == 0 {
            sleep(some(rng, 1_500)).await;
            let _ = crew.wish(&id, Wish::Cancel).await;
        }
        let mut has_ended = false;
        if rng.u8(0..5) > 0 {
            has_ended = until(Duration::from_secs(30), || {
                is_over(world, &id) || world.judge.verdict().is_some()
            })
            .await;
        }
        match rng.u8(0..6) {
            0..=1 => {
                sleep(some(rng, 3_000)).await;
                let back = crew.wish(&id, Wish::Rollback).await;
                world.tell(|| format!("BACK with {id}: {back:?}"));
                let is_moved = has_ended && state_of(world, &id) == Some(State::Moved);
                if is_moved && !is_replaced && world.retention.is_none_or(|kept| kept > TROUBLE) {
                    back.map_err(|why| format!("not back: {why}"))?;
                }
            }
            2..=3 => drop(crew.wish(&id, Wish::Finalize).await),
            // Its source follows for a while.
            4 => sleep(some(rng, 6_000)).await,
            _ => {}
        }
    }
    until(TROUBLE, || {
        world.store.records().iter().all(|record| has_ended(record)) || world.judge.verdict().is_some()
    })
    .await;
    Ok(())
}

/// The number of the node that has a shard.
fn home(topology: &Topology, shard: u16) -> usize {
    topology.placement(ShardId(shard)).node.index()
}

fn state_of(world: &World, id: &str) -> Option<State> {
    let mut tasks = tasks(world).into_iter();
    tasks.find(|(of, _)| of == id).map(|(_, task)| task.state)
}

/// Whether a task is over, without taking its record apart.
fn has_ended(record: &Record) -> bool {
    let over = ["moved", "finalized", "rolled-back", "cancelled", "failed"];
    over.contains(&state_in(&record.document))
}

fn is_over(world: &World, id: &str) -> bool {
    let records = world.store.records();
    records.iter().any(|record| record.id == id && has_ended(record))
}

/// Waits until nothing is left half done.
async fn settle(world: &World, crew: &Crew) {
    loop {
        let records = world.store.records();
        let left: Vec<_> = records
            .iter()
            .filter(|record| !has_ended(record))
            .filter_map(|record| Some((record.id.clone(), Move::decode(&record.document)?)))
            .collect();
        if (left.is_empty() && !world.store.has_unit()) || world.judge.verdict().is_some() {
            return;
        }
        for (id, task) in left {
            if task.manual && task.wish.is_none() {
                let _ = crew.wish(&id, Wish::Cutover).await;
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Who runs the proxies.
#[derive(Default)]
struct Crew {
    processes: Mutex<Vec<Option<Process>>>,
}

impl Crew {
    /// Another proxy takes the place of each that dies.
    async fn raise_the_dead(self: Arc<Self>, world: Arc<World>) {
        let mut rng = world.rng("crew", 0);
        let mut run = 0;
        loop {
            world.died.notified().await;
            let dead: Vec<usize> = (0..PROXIES).filter(|&who| lock(&world.dead)[who]).collect();
            for who in dead {
                let process = lock(&self.processes)[who].take();
                if let Some(process) = process {
                    process.kill(&world).await;
                }
                sleep(Duration::from_millis(rng.u64(1..4_000))).await;
                lock(&world.dead)[who] = false;
                run += 1;
                let process = Process::start(&world, who, run);
                lock(&self.processes)[who] = Some(process);
            }
        }
    }

    fn mover(&self) -> Option<Arc<Mover>> {
        let processes = lock(&self.processes);
        let mut live = processes.iter().flatten();
        live.next_back().map(|process| Arc::clone(&process.mover))
    }

    async fn order(&self, world: &World, order: &MoveOrder) -> Option<String> {
        for _ in 0..5 {
            if let Some(mover) = self.mover() {
                match mover.order(order).await {
                    Ok(ordered) => {
                        world.tell(|| format!("ORDER {order:?}: {:?}", ordered.id));
                        return Some(ordered.id);
                    }
                    Err(why) => world.tell(|| format!("no order: {why}")),
                }
            }
            sleep(Duration::from_millis(400)).await;
        }
        None
    }

    /// While a move is made, another server takes the place of one of its nodes if that has no shards. The main stream of chance is as it
    /// would be without.
    async fn replace_one(&self, world: &World, topology: &Topology, [source, target]: [usize; 2]) {
        let mut rng = world.rng("operator", 0);
        // About as long as a move without faults takes, or any time.
        let most_ms = if rng.bool() { 200 } else { 1_500 };
        sleep(some(&mut rng, most_ms)).await;
        let node = if rng.u8(0..4) == 0 { source } else { target };
        self.replace(world, &topology.nodes[node].name).await;
    }

    /// The other server of its place is a node now, with what it has.
    async fn replace(&self, world: &World, name: &str) {
        let fleet = {
            let processes = lock(&self.processes);
            let mut live = processes.iter().flatten();
            live.next().map(|process| Arc::clone(&process.fleet))
        };
        let Some(fleet) = fleet else { return };
        let changed = fleet.change(|topology| {
            let node = topology.node_named(name).ok_or("it has left")?;
            if topology.shards_on(node).next().is_some() {
                return Err("it has shards".to_owned());
            }
            let other = server_at(&topology.node(node).address) + topology.nodes.len();
            let other = &world.nodes[other % world.nodes.len()];
            let next = topology.with_address(name, other.address.clone());
            next.map_err(|error| error.to_string())
        });
        let changed = changed.await.map(|changed| changed.epoch);
        world.tell(|| format!("REPLACE {name}: {changed:?}"));
    }

    async fn wish(&self, id: &str, wish: Wish) -> Result<(), String> {
        match self.mover() {
            Some(mover) => mover.wish(id, wish).await,
            None => Err("nobody is there".to_owned()),
        }
    }

    fn tell(&self, world: &World) -> String {
        let workers = lock(&world.workers);
        let workers: Vec<_> = workers
            .iter()
            .map(|worker| {
                worker
                    .as_ref()
                    .map_or_else(String::new, |worker| worker.waiting())
            })
            .collect();
        format!(
            "{}\n{:#?}\n{:?}",
            workers.join("\n"),
            tasks(world),
            world.store.topology().units
        )
    }
}
